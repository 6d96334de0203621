#![allow(clippy::unwrap_used)]

use super::*;

fn read(name: &str, text: &str) -> Vec<(String, Option<String>)> {
    let set = parse(name, text).unwrap_or_else(|e| panic!("{name}: {e}"));
    set.entries.into_iter().map(|e| (e.text, e.category)).collect()
}

fn entry(text: &str, category: &str) -> (String, Option<String>) {
    (text.to_owned(), (!category.is_empty()).then(|| category.to_owned()))
}

fn error(name: &str, text: &str) -> String {
    parse(name, text).unwrap_err().to_string()
}

fn bytes(name: &str, bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut into = Collector::default();
    super::read(name, bytes.to_vec(), &mut into).map_err(|e| e.to_string())?;
    Ok(into.set.entries.into_iter().map(|e| e.text).collect())
}

#[test]
fn every_format_gives_texts_and_categories() {
    let plain = parse("a.txt", "\u{feff}a cat\r\n\n a dog \na cat\nA cat\n").unwrap();
    assert_eq!((plain.entries.len(), plain.blank, plain.repeated), (2, 1, 2));
    assert_eq!(plain.entries[1].text, "a dog");
    // GenEval, HPDv2 as texts and as objects, PartiPrompts.
    let geneval = "{\"tag\": \"counting\", \"include\": [], \"prompt\": \"two cats\"}\n";
    assert_eq!(read("g.jsonl", geneval), [entry("two cats", "counting")]);
    assert_eq!(read("h.json", "[\"a\", \"b\"]"), [entry("a", ""), entry("b", "")]);
    assert_eq!(read("h.json", "[{\"caption\": \"c\"}]"), [entry("c", "")]);
    let parti = "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\t\nx \"y\"\t\t\t\n";
    assert_eq!(read("P.TSV", parti), [entry("bond", "Abstract"), entry("x \"y\"", "")]);
    let csv = "id,Prompt,Category\r\n1,\"a cat, \"\"big\"\"\",animals\r\n2,\"two\n lines\",\r\n3,,x\r\n4,a dog,\"\"\r\n";
    let expected =
        [entry("a cat, \"big\"", "animals"), entry("two\n lines", ""), entry("a dog", "")];
    assert_eq!(read("a.csv", csv), expected);
    assert_eq!(parse("a.csv", csv).unwrap().blank, 1);
    assert_eq!(read("a.csv", "caption\nx\n"), [entry("x", "")]);
}

#[test]
fn names_of_columns_are_compared_without_case() {
    // DrawBench.
    let draw = "Prompts,Category\nA red colored car.,Colors\n\"One cat, two dogs.\",Counting\n";
    let expected = [entry("A red colored car.", "Colors"), entry("One cat, two dogs.", "Counting")];
    assert_eq!(read("d.csv", draw), expected);
    assert_eq!(read("d.tsv", "Prompts\tCategory\nx, y\tColors\n"), [entry("x, y", "Colors")]);
    assert_eq!(read("d.csv", "ID;PROMPT;Style\n1;\"a; b\";photo\n"), [entry("a; b", "photo")]);
    assert_eq!(read("d.jsonl", "{\"Prompts\": \"x\", \"Category\": \"y\"}"), [entry("x", "y")]);
    assert_eq!(read("d.json", "[{\"TEXT\": \"x\", \"Tag\": \"y\"}]"), [entry("x", "y")]);
    // A table of tabs that a program quoted, and one whose quotes are its own.
    let quoted = "Prompt\tCategory\n\"two\nlines\"\tx\n\"a \"\"b\"\"\"\ty\n";
    assert_eq!(read("q.tsv", quoted), [entry("two\nlines", "x"), entry("a \"b\"", "y")]);
    let own = "Prompt\tNote\n\"G I G\" painted\t\n\"BE\"\t\n\"a \"\"b\"\"\"\t\n";
    assert_eq!(
        read("o.tsv", own),
        [entry("\"G I G\" painted", ""), entry("\"BE\"", ""), entry("a \"b\"", "")]
    );
}

#[test]
fn json_of_many_shapes() {
    for (text, expected) in [
        // HPDv2's benchmark by style; MJHQ-30K by id; captions by file.
        (
            r#"{"anime": ["a", "b"], "photo": [{"prompt": "c"}, {"prompt": "d", "tag": "own"}]}"#,
            vec![entry("a", "anime"), entry("b", "anime"), entry("c", "photo"), entry("d", "own")],
        ),
        (
            r#"{"0af": {"prompt": "a", "category": "x"}, "1b": {"prompt": "b"}}"#,
            vec![entry("a", "x"), entry("b", "")],
        ),
        (r#"{"001.jpg": "a", "002.jpg": "b"}"#, vec![entry("a", ""), entry("b", "")]),
        // COCO captions; the hub's viewer; columns; pandas.
        (
            r#"{"info": {"year": 2014}, "images": [{"id": 1, "file_name": "x.jpg"}], "annotations": [{"image_id": 1, "id": 2, "caption": "a"}]}"#,
            vec![entry("a", "")],
        ),
        (
            r#"{"features": [], "rows": [{"row_idx": 0, "row": {"caption": "a"}}], "num_rows_total": 1}"#,
            vec![entry("a", "")],
        ),
        (
            r#"{"Prompt": ["a", "b"], "Category": ["x", null]}"#,
            vec![entry("a", "x"), entry("b", "")],
        ),
        (r#"{"prompt": {"0": "a", "1": "b"}}"#, vec![entry("a", ""), entry("b", "")]),
        (r#"{"prompts": ["a", {"text": "b"}]}"#, vec![entry("a", ""), entry("b", "")]),
        (r#"{"prompt": "a"}"#, vec![entry("a", "")]),
        // JSON lines under the name of a list.
        ("{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n", vec![entry("a", ""), entry("b", "")]),
    ] {
        assert_eq!(read("a.json", text), expected, "{text}");
    }
    assert_eq!(read("a.jsonl", "[\n\"a\",\n\"b\"\n]\n"), [entry("a", ""), entry("b", "")]);
    assert_eq!(read("a.jsonl", "\"a\"\n\n{\"text\": \"b\"}"), [entry("a", ""), entry("b", "")]);
}

#[test]
fn numbers_that_are_none_are_read() {
    let text = "{\"prompt\": \"NaN is \\\"NaN\\\", -Infinity\", \"score\": NaN, \"low\": -Infinity, \"high\": Infinity}\n{\"prompt\": NaN}\n";
    assert_eq!(read("a.jsonl", text), [entry("NaN is \"NaN\", -Infinity", "")]);
    assert_eq!(parse("a.jsonl", text).unwrap().blank, 1);
    assert_eq!(read("a.json", "[{\"prompt\": \"é\", \"s\": [NaN, NaN]}]"), [entry("é", "")]);
    assert!(error("a.json", "[NaNa]").contains("not valid JSON"));
    assert!(error("a.jsonl", "{\"prompt\": \"a\", \"s\": N}").starts_with("line 1 is not"));
}

#[test]
fn yaml_lists() {
    let plain = "# prompts\n- a cat\n- \"a sign: \\\"no\\\"\"\n- 'it''s'\n- >-\n  two\n  lines\n- ~\n- 42\n";
    let expected = ["a cat", "a sign: \"no\"", "it's", "two lines", "42"];
    assert_eq!(read("a.yaml", plain), expected.map(|t| entry(t, "")));
    assert_eq!(parse("a.yaml", plain).unwrap().blank, 1);
    let rows = "- prompt: a\n  category: x\n  seed: 3\n- {text: b}\n- caption: |\n    c\n";
    assert_eq!(read("a.yml", rows), [entry("a", "x"), entry("b", ""), entry("c", "")]);
    assert_eq!(read("a.yaml", "prompts:\n  - a\n  - b\n"), [entry("a", ""), entry("b", "")]);
    assert_eq!(read("a.yaml", "x:\n- a\ny:\n- b\n"), [entry("a", "x"), entry("b", "y")]);
    assert_eq!(read("a.yaml", "[a, \"b, c\"]"), [entry("a", ""), entry("b, c", "")]);
    assert_eq!(read("a.yaml", "---\n- a\n---\n- b\n"), [entry("a", ""), entry("b", "")]);
    let sign = error("a.yaml", "- a cat\n- a sign: hello\n");
    assert!(sign.starts_with("entry 2 has none") && sign.contains("in quotes"), "{sign}");
    assert!(error("a.yaml", "- &x a\n- *x\n").contains("line 2: aliases"), "aliases");
    assert!(error("a.yaml", "- a\n- \"b\n").contains("not valid YAML"));
    assert!(error("a.yaml", "model: x\nsteps: 3\n").contains("the keys model, steps"));
    assert!(error("a.yaml", &"[".repeat(100_000)).starts_with("line "));
    assert!(error("a.yaml", &"[".repeat(60)).starts_with("line "));
    assert!(error("a.yaml", "just a text\n").contains("holds a text"));
}

#[test]
fn line_ends_and_encodings() {
    assert_eq!(bytes("a.txt", b"a\rb\r\nc\nd"), Ok(["a", "b", "c", "d"].map(str::to_owned).into()));
    assert_eq!(bytes("a.csv", b"Prompt\ra\rb\r"), Ok(["a", "b"].map(str::to_owned).into()));
    let two = Ok(vec!["é 🐈".to_owned(), "b".to_owned()]);
    for (little, mark) in [(true, [0xff, 0xfe]), (false, [0xfe, 0xff])] {
        let units = "é 🐈\r\nb\n".encode_utf16();
        let body = units.flat_map(|u| if little { u.to_le_bytes() } else { u.to_be_bytes() });
        let file: Vec<u8> = mark.into_iter().chain(body).collect();
        assert_eq!(bytes("a.txt", &file), two);
        assert!(bytes("a.txt", &file[..file.len() - 1]).unwrap_err().contains("UTF-16"));
        let bare = bytes("a.txt", &file[2..]).unwrap_err();
        assert!(bare.contains("NUL") || bare.contains("without a byte order mark"), "{bare}");
    }
    assert_eq!(bytes("a.txt", "\u{feff}é 🐈\nb".as_bytes()), two);
    assert!(bytes("a.txt", b"a\rb\r\xe9\r").unwrap_err().starts_with("line 3 is not UTF-8"));
    assert!(bytes("a.txt", b"\xff\xfe\0\0a\0\0\0").unwrap_err().contains("UTF-32"));
    assert!(bytes("a.txt", b"a\nb\0\n").unwrap_err().starts_with("line 2 holds a NUL"));
    assert!(
        bytes("a.txt", b"\xff\xfe\x00\xd8a\0").unwrap_err().starts_with("line 1 is not UTF-16")
    );
}

#[test]
fn comments_are_lines_that_begin_with_a_sign_and_a_space() {
    let set = parse("a.txt", "# my list\n#\n#sunset #beach\na cat # 2\n").unwrap();
    let texts: Vec<&str> = set.entries.iter().map(|e| e.text.as_str()).collect();
    assert_eq!((texts, set.comments), (vec!["#sunset #beach", "a cat # 2"], 2));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    assert!(error("a.jsonl", "{\"text\": \"x\"}\na cat\n").starts_with("line 2 is not valid JSON"));
    let key = error("a.jsonl", "{\"text\": \"x\"}\n{\"txt\": \"y\"}");
    assert!(key.starts_with("entry 2 has none") && key.contains("the keys txt"), "{key}");
    assert!(error("a.json", "{}").contains("JSON list"));
    assert!(error("a.json", "{\"name\": \"my set\"}").contains("the keys name"));
    assert!(error("a.json", "[\n\"x\",\n").starts_with("line "));
    assert!(error("a.json", "[[\"x\"]]").starts_with("entry 1 has none"));
    assert!(error("a.json", "{\"prompt\": 3}").contains("entry 1 has none"));
    assert!(error("a.tsv", "id\tlabel\n").contains("id, label"));
    assert!(error("a.csv", "id,label\n").contains("id, label"));
    assert!(error("a.csv", "").contains("no column is named"));
    assert!(error("a.csv", &"x,".repeat(90_000)).len() < 1000, "messages stay short");
    let short = error("a.csv", "id,text\n1,a\n2\n");
    assert!(short.starts_with("line 3 has 1 fields, the first line has 2"), "{short}");
}

#[test]
fn other_formats_are_refused_by_name() {
    for (name, contents, words) in [
        ("a.jsonl.gz", "", "packed file"),
        ("a.arrow", "", "Arrow"),
        ("a.XLSX", "", "spreadsheet"),
        ("a.pkl", "", "pickle"),
        ("recipe.toml", "a = 1", "no list of prompts"),
        ("a.txt", "\u{1f}", ""),
        ("a.txt", "PK\u{3}\u{4}", "zip file"),
        ("a.txt", "<!DOCTYPE html><html>", "web page"),
        ("a.parquet", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.txt", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n", "call it .jsonl"),
        ("a.txt", "[\n\"a\",\n\"b\"]\n", "call it .json"),
        ("a.txt", "Prompt\tCategory\na\tb\n", "call it .tsv"),
        ("a.txt", "prompt,category\na,b\n", "call it .csv"),
    ] {
        match bytes(name, contents.as_bytes()) {
            Err(message) => assert!(message.contains(words) && !words.is_empty(), "{message}"),
            Ok(_) => assert!(words.is_empty(), "{name} {contents}"),
        }
    }
    // Wildcards and weights of prompts are none of that.
    let weights =
        "{red|blue} cat\n[cat:dog:0.5], big\n(masterpiece:1.2), 1girl\nprompt, text of a sign\n";
    assert_eq!(read("a.txt", weights).len(), 4);
    assert!(is_parquet("a.PARQUET", b"") && is_parquet("a", b"PAR1") && !is_parquet("a.txt", b"P"));
}

#[test]
fn prompts_have_a_longest_length() {
    let longest = "é".repeat(MAX_CHARS);
    assert_eq!(read("a.txt", &longest).len(), 1);
    let over = format!("a\n{longest}é\n");
    let message = error("a.txt", &over);
    assert!(message.starts_with("line 2 has 10001 characters"), "{message}");
    assert!(error("a.csv", &format!("text\na\n{longest}é\n")).starts_with("line 3 has 10001"));
    assert!(error("a.json", &format!("[\"a\", \"{longest}é\"]")).starts_with("entry 2 has 10001"));
    assert!(error("a.yaml", &format!("- a\n- {longest}é\n")).starts_with("entry 2 has 10001"));
    // Of a file that is one line: no message grows with it.
    assert!(error("a.txt", &"a ".repeat(1 << 20)).len() < 300);
}

/// No mutation of any format stops the program.
#[test]
fn mutations_are_read_or_refused() {
    let seeds = [
        ("a.csv", "id,Prompt,Category\n1,\"a \"\"b\"\"\",x\n2,c,y\n"),
        ("a.tsv", "Prompt\tCategory\n\"a\"\tb\nc\td\n"),
        (
            "a.json",
            "{\"annotations\": [{\"caption\": \"a\", \"s\": NaN}, {\"caption\": \"\\u00e9\"}]}",
        ),
        ("a.jsonl", "{\"prompt\": \"a\", \"x\": -Infinity}\n\"b\"\n"),
        ("a.yaml", "- a\n- {prompt: b, tag: [x, *y]}\n- |\n  c\n# d\n- \"e\\n\"\n"),
        ("a.txt", "a\r\nb\rc é 🐈\n"),
    ];
    let mut state = 9u64;
    let mut next = |n: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for (name, text) in seeds {
        for _ in 0..3000 {
            let mut file = text.as_bytes().to_vec();
            for _ in 0..=next(4) {
                let at = next(file.len());
                match next(4) {
                    0 => file[at] = next(256) as u8,
                    1 => drop(file.remove(at)),
                    2 => file.insert(at, b"\"\\[]{}:,-\n\r\t#&*|>N0"[next(19)]),
                    _ => file.truncate(at.max(1)),
                }
                if file.is_empty() {
                    file.push(b'a');
                }
            }
            let _ = bytes(name, &file);
        }
    }
}

#[test]
fn a_cell_that_says_nan_is_no_prompt() {
    for (name, text) in [
        ("a.csv", "Prompts,Category\na cat,x\nNaN,y\n"),
        ("a.tsv", "Prompt\tTag\na cat\tx\nnan\ty\n"),
    ] {
        assert_eq!(read(name, text), [entry("a cat", "x")], "{name}");
    }
}
