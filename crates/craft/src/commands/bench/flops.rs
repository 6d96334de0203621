//! Floating-point operations of a denoiser, counted from the shapes of its parameters.

use craft_model::Model;
use craft_nn::weights;

/// Where a parameter works: how many positions its map is applied at.
struct Place {
    /// Positions of the feature map.
    pixels: f64,
    /// Tokens of the text.
    tokens: f64,
}

/// Multiplications and additions of one forward pass for one picture with latents of `h` by `w`:
/// convolutions, linear maps and attention; norms and activations are left out.
pub(super) fn forward(model: &Model, h: usize, w: usize) -> f64 {
    let levels = model.unet_config.block_out_channels.len();
    let tokens = model.tokenizer.length() as f64;
    weights::shapes(&model.denoiser)
        .iter()
        .map(|(name, shape)| {
            let pixels = pixels(name, h, w, levels);
            of_parameter(name, shape, &Place { pixels, tokens })
        })
        .sum()
}

/// Those of one guided step for one picture: two forward passes, which share what comes before the first look at the text where no
/// other condition tells them apart.
pub(super) fn guided(model: &Model, h: usize, w: usize) -> f64 {
    let config = &model.unet_config;
    let levels = config.block_out_channels.len();
    let first = config.down_block_types.iter().position(|t| t == "CrossAttnDownBlock2D");
    let first = first.unwrap_or(levels);
    let looks = first < levels && config.only_cross(first).unwrap_or(false);
    let place = |pixels| Place { pixels, tokens: 0.0 };
    let shared = weights::shapes(&model.denoiser)
        .iter()
        .filter(|(name, _)| precedes_text(name, first, looks))
        .map(|(name, shape)| of_parameter(name, shape, &place(pixels(name, h, w, levels))))
        .sum::<f64>();
    let shares = config.addition_embed_type.is_none();
    2.0 * forward(model, h, w) - if shares { shared } else { 0.0 }
}

/// Whether a parameter works before the first look at the text, which is in the way down's level `first`, or behind all of them.
fn precedes_text(name: &str, first: usize, only_cross: bool) -> bool {
    let Some((level, rest)) = name.strip_prefix("down_blocks.").and_then(|n| n.split_once('.'))
    else {
        return name.starts_with("conv_in.");
    };
    let level = level.parse().unwrap_or(usize::MAX);
    let own = rest.starts_with("attentions.0.transformer_blocks.0.attn1.") && !only_cross;
    let at_first =
        own || ["resnets.0.", "attentions.0.proj_in."].iter().any(|p| rest.starts_with(p));
    level < first || level == first && at_first
}

/// Positions of the map that a parameter writes.
fn pixels(name: &str, h: usize, w: usize, levels: usize) -> f64 {
    let block = |prefix: &str| -> Option<usize> {
        name.strip_prefix(prefix)?.split('.').next()?.parse().ok()
    };
    let mut level = 0;
    if let Some(i) = block("down_blocks.") {
        level = i + usize::from(name.contains(".downsamplers."));
    } else if let Some(i) = block("up_blocks.") {
        level = (levels - 1).saturating_sub(i + usize::from(name.contains(".upsamplers.")));
    } else if name.starts_with("mid_block.") {
        level = levels - 1;
    }
    ((h >> level).max(1) * (w >> level).max(1)) as f64
}

fn of_parameter(name: &str, shape: &[usize], place: &Place) -> f64 {
    let count: f64 = shape.iter().map(|n| *n as f64).product();
    if shape.len() < 2 {
        return 0.0;
    }
    let once = name.contains("time_emb") || name.contains("add_embedding");
    let of_text = name.contains(".attn2.to_k.") || name.contains(".attn2.to_v.");
    let positions = match (once, of_text) {
        (true, _) => 1.0,
        (_, true) => place.tokens,
        _ => place.pixels,
    };
    let mut flops = 2.0 * count * positions;
    // Scores and their product with the values, counted at the map of the queries.
    if name.contains(".to_q.") {
        let keys = if name.contains(".attn2.") { place.tokens } else { place.pixels };
        flops += 4.0 * place.pixels * keys * shape[0] as f64;
    }
    flops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_first_text_is_shared() {
        for (name, expected) in [
            ("conv_in.weight", true),
            ("down_blocks.0.resnets.1.conv2.weight", true),
            ("down_blocks.0.downsamplers.0.conv.weight", true),
            ("down_blocks.1.resnets.0.conv1.weight", true),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight", true),
            ("down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.weight", false),
            ("down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q.weight", false),
            ("down_blocks.1.resnets.1.conv1.weight", false),
            ("up_blocks.0.resnets.0.conv1.weight", false),
        ] {
            assert_eq!(precedes_text(name, 1, false), expected, "{name}");
        }
        let own = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight";
        assert!(!precedes_text(own, 1, true));
    }

    #[test]
    fn parameters_count_where_they_work() {
        assert_eq!(pixels("conv_in.weight", 16, 16, 3), 256.0);
        assert_eq!(pixels("down_blocks.0.resnets.0.conv1.weight", 16, 16, 3), 256.0);
        assert_eq!(pixels("down_blocks.0.downsamplers.0.conv.weight", 16, 16, 3), 64.0);
        assert_eq!(pixels("mid_block.resnets.0.conv1.weight", 16, 16, 3), 16.0);
        assert_eq!(pixels("up_blocks.0.resnets.0.conv1.weight", 16, 16, 3), 16.0);
        assert_eq!(pixels("up_blocks.0.upsamplers.0.conv.weight", 16, 16, 3), 64.0);
        let place = Place { pixels: 256.0, tokens: 32.0 };
        assert_eq!(of_parameter("conv_in.weight", &[32, 4, 3, 3], &place), 2.0 * 1152.0 * 256.0);
        assert_eq!(of_parameter("x.attn2.to_k.weight", &[64, 96], &place), 2.0 * 6144.0 * 32.0);
        assert_eq!(of_parameter("time_embedding.linear_1.weight", &[128, 32], &place), 8192.0);
        assert_eq!(of_parameter("conv_in.bias", &[32], &place), 0.0);
    }
}
