//! Every ablation is a set of recipes, under the names of earlier comparisons.

use std::fmt::Write;

use super::super::change::checked;
use super::super::methods::changes;
use super::*;
use craft_core::Recipe;

const RECIPE: &str = "[model]\npath = \"m\"\n[prompts]\nsource = \"pocket\"\n[[rewards]]\nname = \"a-hps\"\n[[rewards]]\nname = \"a-aes\"\n";

fn variants(name: &str, prompts: usize, expansions: usize) -> Vec<Variant> {
    Ablation::named(name).unwrap().variants(prompts, expansions).unwrap()
}

#[test]
fn every_variant_is_a_recipe() {
    let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
    for ablation in ABLATIONS {
        let found = ablation.variants(240, 4).unwrap();
        assert!(found.len() > 1, "{ablation:?}");
        for variant in found {
            let filter = changes(variant.method, &recipe).unwrap();
            let all = [variant.changes, filter].concat();
            checked(&recipe, &all).unwrap_or_else(|e| panic!("{}: {e}", variant.name));
        }
    }
    assert_eq!(variants("pressure", 240, 4)[0].part.prompts, Some(12));
    assert_eq!(variants("pressure-100", 240, 4)[4].part.prompts, Some(240));
    let error = Ablation::named("hat").unwrap_err().to_string();
    assert!(error.contains("no ablation `hat`") && error.contains("pressure"), "{error}");
    let error = Ablation::named("presure").unwrap_err().to_string();
    assert!(error.contains("did you mean `pressure`?"), "{error}");
}

/// Names and settings stand in files: another word for the same would train everything anew.
#[test]
fn names_and_settings_are_those_of_earlier_comparisons() {
    let mut found = String::new();
    for variant in ABLATIONS.iter().flat_map(|ablation| ablation.variants(240, 4).unwrap()) {
        let texts: Vec<String> = variant.changes.iter().map(Change::to_string).collect();
        let part = serde_json::to_string(&variant.part).unwrap();
        let line = format!("{}: {} {part}", variant.name, texts.join(" "));
        let line = line.replace(r#"{"prompts":null,"wordings":null}"#, "");
        writeln!(found, "{}", line.trim_end()).unwrap();
    }
    assert_eq!(found, include_str!("earlier.txt"));
}
