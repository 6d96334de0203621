//! Every instruction set gives the same results within rounding. One test: the level is global to
//! the process.
mod common;
use common::{Rng, close, conv_shapes, half_residual_block, wide};
use craft_kernels::*;

fn everything() -> Vec<(String, Vec<f32>)> {
    let mut r = Rng(21);
    let mut out = vec![];
    for s in conv_shapes() {
        let x = r.vec(s.batch * s.in_channels * s.height * s.width);
        let w = r.vec(s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1]);
        let dy = r.vec(s.batch * s.out_channels * s.out_height() * s.out_width());
        out.push((format!("y {s:?}"), conv2d(&x, &w, None, &s)));
        out.push((format!("dx {s:?}"), conv2d_backward_input(&dy, &w, &s)));
        out.push((format!("dw {s:?}"), conv2d_backward_weight(&x, &dy, &s)));
        out.push((format!("db {s:?}"), conv2d_backward_bias(&dy, &s)));
        let half = half_residual_block(&mut r, &s);
        out.extend(half.into_iter().map(|v| (format!("half a residual block {s:?}"), v)));
    }
    for (m, k, n) in [(70, 37, 45), (5, 300, 130), (1, 8, 9)] {
        let (x, w, b, dy) = (r.vec(m * k), r.vec(n * k), r.vec(n), r.vec(m * n));
        out.push(("linear".into(), linear(&x, &w, Some(&b), m, k, n)));
        out.push(("linear dx".into(), linear_backward_input(&dy, &w, m, k, n)));
        out.push(("linear dw".into(), linear_backward_weight(&x, &dy, m, k, n)));
        out.push(("linear db".into(), linear_backward_bias(&dy, m, n)));
    }
    for causal in [false, true] {
        let s = AttentionShape { batch: 2, heads: 2, queries: 37, keys: 139, head_dim: 20 };
        let (q, k, v, d) =
            (r.vec(2 * 37 * 40), r.vec(2 * 139 * 40), r.vec(2 * 139 * 40), r.vec(2 * 37 * 40));
        let (o, lse) = attention(&q, &k, &v, &s, 0.5, causal);
        let (dq, dk, dv) = attention_backward(&q, &k, &v, &o, &lse, &d, &s, 0.5, causal);
        out.extend(
            [("o", o), ("lse", lse), ("dq", dq), ("dk", dk), ("dv", dv)]
                .map(|(n, v)| (n.to_string(), v)),
        );
    }
    let (x, dy, w, b) = (r.vec(3 * 6 * 35), r.vec(3 * 6 * 35), r.vec(6), r.vec(6));
    for silu in [false, true] {
        let (y, mean, rstd) = group_norm(&x, &w, &b, 3, 6, 35, 2, 1e-5, silu);
        let (dx, dw, db) = group_norm_backward(&x, &dy, &w, &b, &mean, &rstd, 3, 6, 35, 2, silu);
        out.extend([y, mean, rstd, dx, dw, db].map(|v| ("group norm".to_string(), v)));
    }
    let (w, b) = (r.vec(35), r.vec(35));
    let (y, mean, rstd) = layer_norm(&x, &w, &b, 18, 35, 1e-5);
    let (dx, dw, db) = layer_norm_backward(&x, &dy, &w, &mean, &rstd, 18, 35);
    out.extend([y, mean, rstd, dx, dw, db].map(|v| ("layer norm".to_string(), v)));
    let wide: Vec<f32> = x.iter().map(|v| v * 20.0).collect();
    for f in [gelu as fn(&[f32]) -> Vec<f32>, silu, quick_gelu] {
        out.push(("activation".into(), f(&wide)));
    }
    for f in
        [gelu_backward as fn(&[f32], &[f32]) -> Vec<f32>, silu_backward, quick_gelu_backward, add]
    {
        out.push(("activation backward".into(), f(&wide, &dy)));
    }
    out.push(("geglu".into(), geglu(&x, 9, 35)));
    out.push(("geglu backward".into(), geglu_backward(&x, &dy[..9 * 35], 9, 35)));
    out.push(("transpose".into(), transpose(&x, 3, 6, 35)));
    out.push(("sum".into(), add_channel_backward(&x, 3, 6, 35)));
    out.push(("squares".into(), vec![sum_squares(&x) as f32]));
    out.extend(parts(&mut r));
    let (mut p, mut m, mut v) =
        (x.clone(), dy.clone(), x.iter().map(|x| x * x).collect::<Vec<_>>());
    let h = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.2,
        bias_correction2: 0.02,
        grad_scale: 1.0,
    };
    adamw_step(&mut p, &dy, &mut m, &mut v, &h);
    out.extend([p, m, v].map(|v| ("adamw".to_string(), v)));
    out
}

/// The parts of a transformer block.
fn parts(r: &mut Rng) -> Vec<(String, Vec<f32>)> {
    let (batch, queries, keys, width, context_width, d) = (14, 40, 23, 48, 32, 80);
    let m = batch * queries;
    let (x, dy, c) = (r.vec(m * width), r.vec(m * width), r.vec(batch * keys * context_width));
    let (weight, bias, w1) = (r.vec(width), r.vec(width), r.vec(2 * d * width));
    let (b1, w2, b2) = (r.vec(2 * d), r.vec(width * d), r.vec(width));
    let norm = Norm { weight: &weight, bias: &bias, eps: 1e-5 };
    let f = FeedForward { x: &x, norm, w1: &w1, b1: &b1, w2: &w2, b2: &b2 };
    let (y, kept) = feed_forward(&f, [m, width, d], true);
    let gradients = feed_forward_backward(&f, kept.as_deref(), &dy, [m, width, d], true);
    let mut out = vec![y];
    out.extend(gradients.into_iter().flatten());
    let attention = AttentionShape { batch, heads: 2, queries, keys, head_dim: 24 };
    let shape = FusedAttentionShape { attention, width, context_width };
    let (wq, wk, wv) = (r.vec(48 * 48), r.vec(48 * 32), r.vec(48 * 32));
    let wo = r.vec(48 * 48);
    let (wq, wk, wv, wo) = (&wq, &wk, &wv, &wo);
    let p = FusedAttention { x: &x, norm, context: Some(&c), wq, wk, wv, wo, bo: &b2 };
    let (y, kept) = fused_attention(&p, &shape, true);
    let kept = kept.expect("kept");
    let kept = kept.each_ref().map(Vec::as_slice);
    let g = fused_attention_backward(&p, kept, &dy, &shape, (true, true));
    out.extend([y, g.x, g.context.expect("wanted")]);
    out.extend(g.norm.into_iter().chain(g.weights.expect("wanted")));
    out.into_iter().map(|v| ("part of a transformer".to_string(), v)).collect()
}

#[test]
fn levels_agree() {
    let best = everything();
    for level in [SimdLevel::Portable, SimdLevel::Neon, SimdLevel::Avx2, SimdLevel::Avx512] {
        if !set_simd_level(Some(level)) {
            assert!(!simd_supported(level));
            continue;
        }
        assert_eq!(simd_level(), level);
        for ((name, want), (_, got)) in best.iter().zip(everything()) {
            close(&got, &wide(want), 1e-5, &format!("{name} at {level:?}"));
        }
    }
    assert!(set_simd_level(None));
}
