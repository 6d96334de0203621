use super::*;

/// The blocks of the published Stable Diffusion 1.5.
fn sd15() -> Names {
    let skeleton = Skeleton {
        layers: vec![2; 4],
        down_attention: vec![true, true, true, false],
        up_attention: vec![false, true, true, true],
        vae_levels: 4,
        vae_layers: 2,
    };
    Names::new(Family::Sd1, &skeleton)
}

#[test]
fn published_names_are_paired() {
    let names = sd15();
    for (ldm, part, diffusers) in [
        (
            "model.diffusion_model.input_blocks.11.0.in_layers.2.weight",
            Part::Unet,
            "down_blocks.3.resnets.1.conv1.weight",
        ),
        (
            "model.diffusion_model.input_blocks.3.0.op.bias",
            Part::Unet,
            "down_blocks.0.downsamplers.0.conv.bias",
        ),
        (
            "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
            Part::Unet,
            "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.weight",
        ),
        (
            "model.diffusion_model.output_blocks.2.1.conv.weight",
            Part::Unet,
            "up_blocks.0.upsamplers.0.conv.weight",
        ),
        (
            "model.diffusion_model.output_blocks.5.2.conv.weight",
            Part::Unet,
            "up_blocks.1.upsamplers.0.conv.weight",
        ),
        (
            "model.diffusion_model.output_blocks.11.1.proj_in.weight",
            Part::Unet,
            "up_blocks.3.attentions.2.proj_in.weight",
        ),
        ("model.diffusion_model.out.2.weight", Part::Unet, "conv_out.weight"),
        (
            "first_stage_model.decoder.up.3.upsample.conv.weight",
            Part::Vae,
            "decoder.up_blocks.0.upsamplers.0.conv.weight",
        ),
        (
            "first_stage_model.encoder.down.1.block.0.nin_shortcut.weight",
            Part::Vae,
            "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        ),
        (
            "cond_stage_model.transformer.text_model.final_layer_norm.bias",
            Part::Text,
            "text_model.final_layer_norm.bias",
        ),
    ] {
        let pieces = names.to_diffusers(ldm, &[4, 4]).unwrap();
        assert_eq!(pieces, [Piece { part, name: diffusers.to_owned(), take: Take::Whole }]);
        assert_eq!(names.to_ldm(part, diffusers).unwrap(), (ldm.to_owned(), Take::Whole));
    }
    let query = "first_stage_model.encoder.mid.attn_1.q.weight";
    let pieces = names.to_diffusers(query, &[4, 4, 1, 1]).unwrap();
    assert_eq!(pieces[0].name, "encoder.mid_block.attentions.0.to_q.weight");
    assert_eq!(pieces[0].take, Take::Square);
    assert_eq!(names.to_ldm(Part::Vae, &pieces[0].name).unwrap(), (query.to_owned(), Take::Square));
}

#[test]
fn names_of_no_network_are_left_out_and_wrong_ones_refused() {
    let names = sd15();
    for name in ["model_ema.diffusion_modelout2weight", "betas", "cond_stage_model.logit_scale"] {
        assert_eq!(names.to_diffusers(name, &[1]).unwrap(), []);
    }
    let error = names.to_diffusers("model.diffusion_model.input_blocks.12.0.op.weight", &[1]);
    assert!(error.unwrap_err().to_string().contains("input_blocks.12.0.op.weight"));
    assert!(names.to_ldm(Part::Unet, "down_blocks.9.resnets.0.conv1.weight").is_none());
}
