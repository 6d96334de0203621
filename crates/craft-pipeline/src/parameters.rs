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
    /// Factors that it was drawn with, as `file:scale`.
    pub loras: &'a [String],
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
        let loras = self.loras.join(" ").replace(',', ";");
        let loras = if loras.is_empty() { loras } else { format!("Lora: {loras}, ") };
        text.push_str(&format!(
            "Steps: {}, Sampler: {sampler}{karras}, CFG scale: {}, {source}, Size: {}x{}, Model: {}, {loras}Version: craft {}",
            o.steps,
            o.guidance_scale,
            o.width,
            o.height,
            self.model,
            env!("CARGO_PKG_VERSION")
        ));
        text
    }
}
