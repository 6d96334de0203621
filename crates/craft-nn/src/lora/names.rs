//! Names of adapted modules: from a network's parameters to what files call them.

use std::collections::BTreeMap;

use crate::ldm::unet_names;

/// Parameter names and shapes of a network.
pub(super) type Shapes = BTreeMap<String, Vec<usize>>;

/// Parts of a model that adapters change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The denoiser.
    Unet,
    /// The text encoder, the first one of SDXL.
    TextEncoder,
    /// The second text encoder of SDXL.
    TextEncoder2,
}

impl Component {
    /// The folder of a diffusers model, and the prefix of dotted keys.
    pub fn folder(self) -> &'static str {
        ["unet", "text_encoder", "text_encoder_2"][self as usize]
    }

    /// Prefixes of underscored keys, that of SDXL last.
    pub fn kohya_prefixes(self) -> &'static [&'static str] {
        match self {
            Self::Unet => &["lora_unet"],
            Self::TextEncoder => &["lora_te", "lora_te1"],
            Self::TextEncoder2 => &["lora_te2"],
        }
    }
}

/// How sd-scripts names the modules of a model, with underscores: those of SDXL's UNet as the
/// original code does (`lora_unet_input_blocks_4_1_proj_in`), all others as diffusers and
/// transformers do (`lora_unet_mid_block_attentions_0_proj_in`).
#[derive(Clone, Debug, Default)]
pub struct KohyaNames {
    /// SDXL's modules by their names in diffusers; empty for other models.
    original: BTreeMap<String, String>,
}

impl KohyaNames {
    /// The names for a model whose UNet has these parameters.
    pub fn of<V>(unet: &BTreeMap<String, V>) -> Self {
        if !unet.contains_key("add_embedding.linear_1.weight") {
            return Self::default();
        }
        let original = unet_names(unet.keys());
        let module = |name: &str| name.strip_suffix(".weight").map(str::to_owned);
        let pair = |name: &String| Some((module(name)?, module(&original(name)?)?));
        Self { original: unet.keys().filter_map(pair).collect() }
    }

    /// Whether they are SDXL's, whose first text encoder is `lora_te1`, elsewhere `lora_te`.
    fn xl(&self) -> bool {
        !self.original.is_empty()
    }

    /// The name of a module.
    pub fn module(&self, component: Component, module: &str) -> String {
        let prefixes = component.kohya_prefixes();
        let prefix = prefixes[usize::from(self.xl()).min(prefixes.len() - 1)];
        let original = self.original.get(module).filter(|_| component == Component::Unet);
        format!("{prefix}_{}", original.map_or(module, String::as_str).replace('.', "_"))
    }
}

/// Which parameter a module of a file stands for.
pub(super) type Target = (Component, String);

/// From the names in files to parameters; several where underscores hide the difference.
pub(super) struct Table(BTreeMap<String, Vec<Target>>);

impl Table {
    /// All names of the linear maps and convolutions of a model.
    pub(super) fn new<'a>(model: impl IntoIterator<Item = &'a (Component, Shapes)>) -> Self {
        let mut table = Self(BTreeMap::new());
        for (component, shapes) in model {
            let original = unet_names(shapes.keys());
            for (parameter, shape) in shapes {
                let Some(module) = parameter.strip_suffix(".weight") else { continue };
                if !matches!(shape.len(), 2 | 4) || module.ends_with("embedding") {
                    continue;
                }
                table.add(*component, module, parameter);
                // sd-scripts names SDXL's modules as the original code does.
                if *component == Component::Unet
                    && let Some(name) = original(parameter)
                {
                    let module = name.trim_end_matches(".weight");
                    table.add_name(*component, format!("diffusion_model.{module}"), parameter);
                    let flat = format!("lora_unet_{}", module.replace('.', "_"));
                    table.add_name(*component, flat, parameter);
                }
                // transformers 5 writes the text encoder's names without this level.
                if let Some(short) = module.strip_prefix("text_model.") {
                    table.add(*component, short, parameter);
                }
            }
        }
        table
    }

    fn add(&mut self, component: Component, module: &str, parameter: &str) {
        let mut names = vec![module.to_owned(), format!("{}.{module}", component.folder())];
        let flat = module.replace('.', "_");
        names.extend(component.kohya_prefixes().iter().map(|p| format!("{p}_{flat}")));
        // LyCORIS as SimpleTuner uses it, and what ComfyUI itself saves.
        match component {
            Component::Unet => names.push(format!("lycoris_{flat}")),
            Component::TextEncoder => {
                for clip in ["clip_l", "clip_h"] {
                    names.push(format!("text_encoders.{clip}.transformer.{module}"));
                }
            }
            Component::TextEncoder2 => {
                names.push(format!("text_encoders.clip_g.transformer.{module}"));
            }
        }
        for name in names {
            self.add_name(component, name, parameter);
        }
    }

    fn add_name(&mut self, component: Component, name: String, parameter: &str) {
        let targets = self.0.entry(name).or_default();
        let target = (component, parameter.to_owned());
        if !targets.contains(&target) {
            targets.push(target);
        }
    }

    /// What a name stands for.
    pub(super) fn find(&self, module: &str) -> &[Target] {
        self.0.get(module).map_or(&[], Vec::as_slice)
    }

    /// A key that a file for this model could hold.
    pub(super) fn example(&self) -> String {
        let name = self.0.keys().find(|n| n.starts_with("lora_unet_") && n.ends_with("_to_q"));
        let name = name.or_else(|| self.0.keys().next()).cloned().unwrap_or_default();
        format!("{name}.lora_down.weight")
    }
}

/// The first few of many keys.
pub(super) fn first(keys: &[String]) -> String {
    let mut text = keys.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if keys.len() > 5 {
        text.push_str(&format!(" and {} more", keys.len() - 5));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_original_code_are_known() {
        let names = [
            "down_blocks.0.resnets.0.conv1.weight",
            "down_blocks.1.resnets.0.conv1.weight",
            "down_blocks.1.attentions.0.norm.weight",
            "down_blocks.1.attentions.0.proj_in.weight",
        ];
        let shapes: Shapes = names.iter().map(|n| ((*n).to_owned(), vec![2, 2])).collect();
        let table = Table::new([&(Component::Unet, shapes)]);
        let target = [(Component::Unet, names[3].to_owned())];
        for name in
            ["lora_unet_input_blocks_3_1_proj_in", "diffusion_model.input_blocks.3.1.proj_in"]
        {
            assert_eq!(table.find(name), target, "{name}");
        }
        assert_eq!(table.find("lora_unet_input_blocks_1_0_in_layers_2").len(), 1);
    }

    #[test]
    fn names_are_those_of_both_dialects() {
        let shapes = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), vec![2, 2])).collect();
        let table = Table::new(&[
            (Component::Unet, shapes(&["a.b_c.weight", "a_b.c.weight", "d.0.weight", "d.bias"])),
            (Component::TextEncoder, shapes(&["text_model.x.q_proj.weight"])),
        ]);
        assert_eq!(table.find("lora_unet_a_b_c").len(), 2, "underscores hide which one is meant");
        assert_eq!(table.find("unet.a.b_c"), [(Component::Unet, "a.b_c.weight".to_owned())]);
        assert_eq!(table.find("lora_unet_d_0").len(), 1);
        for name in
            ["lora_te_text_model_x_q_proj", "lora_te1_text_model_x_q_proj", "text_encoder.x.q_proj"]
        {
            assert_eq!(table.find(name).len(), 1, "{name}");
        }
        assert!(table.find("lora_te2_text_model_x_q_proj").is_empty());
        assert_eq!(
            KohyaNames::default().module(Component::Unet, "mid_block.attentions.0.proj_in"),
            "lora_unet_mid_block_attentions_0_proj_in"
        );
    }
}
