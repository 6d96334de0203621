//! What a picture says of how it was drawn: the text `parameters` that other tools show and read.

use craft_diffusion::sampler::Scheduler;

use crate::draw::DrawOptions;

/// The settings that the pictures of a series share.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// What they were not to show.
    pub negative: Option<&'a str>,
    /// How they were drawn.
    pub options: &'a DrawOptions,
    /// The model's name.
    pub model: &'a str,
}

impl Parameters<'_> {
    /// The text of one picture; `source` says what its noise was drawn from, such as `Seed: 7`.
    ///
    /// The form is that of AUTOMATIC1111's web UI: prompt, negative prompt, and settings on a line.
    pub fn of(&self, prompt: &str, source: &str) -> String {
        let o = self.options;
        let mut text = format!("{prompt}\n");
        if let Some(negative) = self.negative.filter(|text| !text.is_empty()) {
            text.push_str(&format!("Negative prompt: {negative}\n"));
        }
        let sampler = match o.scheduler {
            Scheduler::Ddim => "DDIM",
            Scheduler::Euler => "Euler",
            Scheduler::EulerAncestral => "Euler a",
            Scheduler::DpmPlusPlus2M => "DPM++ 2M",
        };
        let karras = if o.karras { " Karras" } else { "" };
        text.push_str(&format!(
            "Steps: {}, Sampler: {sampler}{karras}, CFG scale: {}, {source}, Size: {}x{}, Model: {}, Version: craft {}",
            o.steps,
            o.guidance_scale,
            o.width,
            o.height,
            quoted(self.model),
            env!("CARGO_PKG_VERSION")
        ));
        text
    }
}

/// A value as it can stand in a list of settings.
fn quoted(text: &str) -> String {
    match text.contains([',', ':', '\n', '"']) {
        true => serde_json::Value::from(text).to_string(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_says_how_it_was_drawn() {
        let options = DrawOptions {
            steps: 25,
            guidance_scale: 7.5,
            scheduler: Scheduler::DpmPlusPlus2M,
            karras: true,
            height: 512,
            width: 768,
            batch: 4,
        };
        let parameters = Parameters { negative: Some("blurry"), options: &options, model: "sd: a" };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            parameters.of("a cat, red", "Seed: 7"),
            format!(
                "a cat, red\nNegative prompt: blurry\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, Size: 768x512, Model: \"sd: a\", Version: craft {version}"
            )
        );
    }
}
