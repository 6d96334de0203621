use super::*;

fn names(dir: &Path) -> Vec<String> {
    list(dir)
        .unwrap()
        .iter()
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.txt");
    write(&path, b"old").unwrap();
    let mut file = AtomicFile::create(&path).unwrap();
    file.put(b"new, unfinished").unwrap();
    file.flush().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    drop(file);
    assert_eq!(names(dir.path()), ["a.txt"]);
    write(&path, b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(names(dir.path()), ["a.txt"]);
}

#[test]
fn errors_name_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no/such/a.txt");
    let message = write(&path, b"").unwrap_err().to_string();
    assert!(message.contains("no/such/a.txt"), "{message}");
    let message = write(Path::new("/"), b"").unwrap_err().to_string();
    assert!(message.contains('/'), "{message}");
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("step-10");
    let fill = |text: &'static str| {
        move |d: &Path| -> Result<()> {
            create_dir(&d.join("unet"))?;
            write(&d.join("unet/w"), text.as_bytes())
        }
    };
    let fail = write_dir_atomically(&target, |d| -> Result<()> {
        fill("half")(d)?;
        Err(StoreError::bad(d, "stopped"))
    });
    assert!(fail.is_err());
    assert!(names(dir.path()).is_empty());
    write_dir_atomically(&target, fill("one")).unwrap();
    write_dir_atomically(&target, fill("two")).unwrap();
    assert_eq!(names(dir.path()), ["step-10"]);
    assert_eq!(fs::read(target.join("unet/w")).unwrap(), b"two");
}

#[test]
fn leftovers_are_removed_and_a_replaced_folder_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at(".a.txt.1-0.tmp"), "half").unwrap();
    fs::create_dir(at(".step-1.1-1.tmp")).unwrap();
    fs::create_dir(at(".step-1.replaced.tmp")).unwrap();
    fs::write(at("kept"), "").unwrap();
    remove_leftovers(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["kept", "step-1"]);
    fs::create_dir(at(".step-1.replaced.tmp")).unwrap();
    remove_leftovers(dir.path()).unwrap();
    assert_eq!(names(dir.path()), ["kept", "step-1"]);
}

#[test]
fn only_our_own_names_are_temporary() {
    for name in [".a.txt.12-0.tmp", ".step-2.1-17.tmp", ".step-2.replaced.tmp"] {
        assert!(is_temporary(name), "{name}");
    }
    for name in ["a.tmp", ".tmp", ".a.tmp", ".a.b.tmp", ".a.1.tmp", ".a.1-x.tmp", ".a.-1.tmp"] {
        assert!(!is_temporary(name), "{name}");
    }
}

#[test]
#[cfg(unix)]
fn removing_never_follows_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("step-1/unet")).unwrap();
    fs::create_dir(at("photos")).unwrap();
    fs::write(at("photos/a.jpg"), "keep").unwrap();
    std::os::unix::fs::symlink(at("photos"), at("step-1/unet/link")).unwrap();
    remove_dir(&at("step-1")).unwrap();
    assert_eq!(names(dir.path()), ["photos"]);
    assert_eq!(fs::read(at("photos/a.jpg")).unwrap(), b"keep");
}

#[test]
fn a_copy_is_whole_and_errors_name_their_side() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a"), vec![7; 3 << 20]).unwrap();
    copy(&at("a"), &at("b")).unwrap();
    assert_eq!(fs::read(at("b")).unwrap(), vec![7; 3 << 20]);
    assert!(copy(&at("a"), &at("no/b")).unwrap_err().to_string().contains("no/b"));
    let error = copy(&at("missing"), &at("c")).unwrap_err();
    assert!(error.to_string().contains("missing") && error.is_bad_input(), "{error}");
}
