//! Floating-point operations of a denoiser, counted from the shapes of its parameters.

use craft_nn::weights;
use craft_pipeline::Model;

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
    weights::shapes(&model.unet)
        .iter()
        .map(|(name, shape)| {
            let pixels = pixels(name, h, w, levels);
            of_parameter(name, shape, &Place { pixels, tokens })
        })
        .sum()
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
