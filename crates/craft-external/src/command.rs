//! A program that scores: JSON lines in, JSON lines out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use craft_store::atomic;
use serde_json::json;

use crate::answer::{self, Answer};
use crate::error::ExternalError;
use crate::failures::Failures;
use crate::process::Process;
use crate::text::head;
use crate::{Item, Scored};

/// A program that was found.
#[derive(Clone, Debug)]
pub struct CommandOptions {
    program: PathBuf,
    arguments: Vec<String>,
    dir: PathBuf,
    timeout: Duration,
    start_timeout: Duration,
}

impl CommandOptions {
    /// Looks for a program: a name on the search path, or a path relative to `dir`, in which it will be
    /// started. `timeout` is for an answer, `start_timeout` for the first one of a started program.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn new(
        words: &[String],
        dir: &Path,
        timeout: Duration,
        start_timeout: Duration,
    ) -> Result<Self, ExternalError> {
        let program = words.first().map_or("", String::as_str);
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        Ok(Self {
            program: find(program, &dir)?,
            arguments: words.iter().skip(1).cloned().collect(),
            dir,
            timeout,
            start_timeout,
        })
    }
}

/// The file of a program.
fn find(program: &str, dir: &Path) -> Result<PathBuf, ExternalError> {
    let is_path = Path::new(program).components().count() > 1;
    let places: Vec<PathBuf> = if is_path {
        vec![dir.join(program)]
    } else {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|place| place.join(program)).collect()
    };
    let suffixes: &[&str] = if cfg!(windows) { &["", ".exe", ".cmd", ".bat"] } else { &[""] };
    let files: Vec<PathBuf> = places
        .into_iter()
        .flat_map(|place| {
            suffixes.iter().map(move |s| PathBuf::from(format!("{}{s}", place.display())))
        })
        .filter(|file| file.is_file())
        .collect();
    if let Some(file) = files.iter().find(|file| is_executable(file)) {
        return Ok(file.clone());
    }
    match files.into_iter().next() {
        Some(path) => Err(ExternalError::NotExecutable { path }),
        None => Err(ExternalError::NoProgram {
            program: program.to_owned(),
            place: if is_path {
                format!("a file in {}", dir.display())
            } else {
                "on the search path (PATH)".to_owned()
            },
        }),
    }
}

#[cfg(unix)]
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|m| m.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(_: &Path) -> bool {
    true
}

/// A program that scores pictures one after the other. It is started for the first picture and lives
/// until this is dropped; after a failure it is started anew, and after three in a row no more.
///
/// The number of the request goes with it as `id`; an answer that names another is refused.
#[derive(Debug)]
pub struct CommandReward {
    options: CommandOptions,
    process: Option<Process>,
    failures: Failures,
    requests: u64,
    /// Pictures that came without a file.
    pictures: Option<tempfile::TempDir>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("answered", &self.answered).finish_non_exhaustive()
    }
}

impl CommandReward {
    /// Starts nothing yet.
    pub fn new(options: CommandOptions) -> Self {
        Self { options, process: None, failures: Failures::default(), requests: 0, pictures: None }
    }

    /// One score a picture, in their order.
    pub fn score(&mut self, items: &[Item<'_>]) -> Vec<Scored> {
        items.iter().map(|item| self.score_one(item)).collect()
    }

    fn score_one(&mut self, item: &Item<'_>) -> Scored {
        if let Some(reason) = self.failures.given_up() {
            return Err(reason);
        }
        let (path, temporary) = match item.path {
            Some(path) => (std::path::absolute(path).unwrap_or_else(|_| path.to_owned()), false),
            None => (self.write_picture(item)?, true),
        };
        let image = path.to_str().ok_or("the path of the picture is not UTF-8: rename it")?;
        self.requests += 1;
        let request = json!({ "id": self.requests, "image": image, "prompt": item.prompt });
        let result = self.ask(&request.to_string());
        if temporary {
            let _ = atomic::remove_file(&path);
        }
        match result {
            Ok(scored) => {
                self.failures.reset();
                scored
            }
            Err(reason) => {
                self.process = None;
                Err(self.failures.add(reason))
            }
        }
    }

    /// `Ok`: an answer; `Err`: the program cannot be used any more.
    fn ask(&mut self, request: &str) -> Result<Scored, String> {
        let options = &self.options;
        let process = match &mut self.process {
            Some(process) => process,
            None => {
                let mut command = Command::new(&options.program);
                command.args(&options.arguments).current_dir(&options.dir);
                self.process.insert(Process::start(&mut command)?)
            }
        };
        let timeout = if process.answered { options.timeout } else { options.start_timeout };
        let line = process.ask(request, timeout)?;
        let rubbish = |what: String| {
            format!(
                "{what} (standard output is for answers, one a line; messages belong on standard error)"
            )
        };
        let value = answer::parse(&line).map_err(|_| {
            rubbish(format!("it answered `{}`: expected a JSON object", head(&line)))
        })?;
        if value.get("id").is_some_and(|id| *id != json!(self.requests)) {
            return Err(rubbish(format!(
                "it answered request {}, expected {}",
                head(&value["id"].to_string()),
                self.requests
            )));
        }
        match answer::object(&value) {
            Answer::Score(score) => Ok(Ok(score)),
            Answer::Missing(reason) => Ok(Err(reason)),
            Answer::Rubbish(reason) => Err(rubbish(reason)),
        }
    }

    fn write_picture(&mut self, item: &Item<'_>) -> Result<PathBuf, String> {
        let fail = |e: std::io::Error| format!("no temporary file for the picture ({e})");
        let dir = match &self.pictures {
            Some(dir) => dir,
            None => self.pictures.insert(tempfile::tempdir().map_err(fail)?),
        };
        let path = dir.path().join(format!("{}.png", self.requests));
        atomic::write_scratch(&path, &item.png()?)
            .map_err(|e| format!("no temporary file for the picture ({})", e.reason()))?;
        Ok(path)
    }
}
