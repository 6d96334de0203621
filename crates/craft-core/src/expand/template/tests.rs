use super::*;

fn key(prompt: &str) -> Key {
    Key::new(3).stage("expand").prompt(prompt)
}

#[test]
fn wordings_are_distinct_reproducible_and_never_the_prompt() {
    let general = Templates::general().unwrap();
    for i in 0..100 {
        let prompt = format!("a cat number {i}");
        let key = key(&format!("p{i:05}"));
        let wordings = general.expand(&prompt, 16, &key).unwrap();
        let distinct: BTreeSet<&String> = wordings.iter().collect();
        assert_eq!(distinct.len(), 16);
        assert!(wordings.iter().all(|w| *w != prompt && w.contains(&prompt)));
        assert_eq!(general.expand(&prompt, 16, &key).unwrap(), wordings);
        assert_eq!(general.expand(&prompt, 5, &key).unwrap(), wordings[..5]);
    }
    assert_ne!(
        general.expand("x", 4, &key("p1")).unwrap(),
        general.expand("x", 4, &key("p2")).unwrap()
    );
}

#[test]
fn each_template_has_its_turn() {
    let list = "[[slot]]\nname='a'\nvalues=['1','2','3']\n[[template]]\ntext='{prompt} {a}{a}'\n[[template]]\ntext='{prompt} x'\n";
    let templates = Templates::parse(list).unwrap();
    for i in 0..20 {
        let two = templates.expand("p", 2, &Key::new(i)).unwrap();
        assert!(two.contains(&"p x".to_owned()), "{two:?}");
    }
    assert_eq!(templates.expand("p", 10, &Key::new(0)).unwrap().len(), 10);
    assert_eq!(
        templates.expand("p", 11, &Key::new(0)),
        Err(ExpandError::TooFew { prompt: "p".into(), wanted: 11, found: 10 })
    );
}

#[test]
fn a_wording_equal_to_the_prompt_does_not_count() {
    let list = "[[template]]\ntext='{prompt}'\nreplace=[['red','blue']]\n[[template]]\ntext='{prompt}, crisp'\nreplace=[['red','blue']]\n";
    let templates = Templates::parse(list).unwrap();
    assert_eq!(templates.expand("a green dot", 1, &Key::new(0)).unwrap(), ["a green dot, crisp"]);
    assert!(templates.expand("a green dot", 2, &Key::new(0)).is_err());
    assert_eq!(templates.expand("a red dot", 2, &Key::new(0)).unwrap().len(), 2);
}

#[test]
fn replacements_are_of_whole_words_in_one_pass() {
    let rules = [
        ["red".to_owned(), "blue".to_owned()],
        ["blue".to_owned(), "red".to_owned()],
        ["a red".to_owned(), "an orange".to_owned()],
    ];
    assert_eq!(
        replace_words("a red dot, redder, blue, the red", &rules),
        "an orange dot, redder, red, the blue"
    );
    assert_eq!(replace_words("äred red", &rules), "äred blue");
    assert_eq!(replace_words("", &rules), "");
}

#[test]
fn bad_lists_say_what_is_wrong() {
    for (list, word) in [
        ("", "empty"),
        ("[[template]]\ntext='crisp'", "{prompt}"),
        ("[[template]]\ntext='{prompt} {style}'", "no slot `style`"),
        ("[[template]]\ntext='{prompt} {'", "brace"),
        ("[[template]]\ntext='{prompt} }'", "brace"),
        ("[[template]]\ntxt='{prompt}'", "txt"),
        ("[[slot]]\nname='a'\nvalues=[]\n", "no values"),
        ("[[slot]]\nname='a'\nvalues=['x']\n[[slot]]\nname='a'\nvalues=['y']", "twice"),
        ("[[template]]\ntext='{prompt}'\nreplace=[['','x']]", "empty"),
        ("[[template]]\ntext='{prompt}'\nreplace=[['x']]", "length"),
    ] {
        let message = Templates::parse(list).unwrap_err().to_string();
        assert!(message.contains(word), "{list}: {message}");
    }
}
