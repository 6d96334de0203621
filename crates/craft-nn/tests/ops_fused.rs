//! Operations and fused blocks, with matmuls in f32 and in bf16, against the same composed from
//! Burn's own. One test: the precision is global to the process.
#![allow(clippy::unwrap_used, clippy::print_stderr, missing_docs, clippy::disallowed_methods)]

mod common;

use burn::tensor::Tensor;
use common::{error, random, run};
use craft_nn::ops::{self, Precision, reference};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

/// Largest error of a precision: factors of bf16 have 8 bits, sums of them are better.
fn tolerance(precision: Precision) -> f32 {
    match precision {
        Precision::F32 => 1e-5,
        Precision::Bf16 => 2e-2,
    }
}

const PRECISIONS: [Precision; 2] = [Precision::F32, Precision::Bf16];

const HALF_BLOCK: &str = "half a residual block";

type Op<'a> = &'a dyn Fn(&[Tensor<1>]) -> Tensor<1>;

fn compare(name: &str, sizes: &[usize], kernel: Op<'_>, oracle: Op<'_>) {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let inputs: Vec<Vec<f32>> = sizes.iter().map(|&n| random(&mut rng, n)).collect();
    // All inputs tracked, and each alone: frozen weights take other ways.
    let all = vec![true; sizes.len()];
    let alone = |i| (0..sizes.len()).map(|j| i == j).collect();
    let ways: Vec<_> = std::iter::once(all).chain((0..sizes.len()).map(alone)).collect();
    for (tracked, precision) in ways.iter().flat_map(|t| PRECISIONS.map(|p| (t, p))) {
        if precision == Precision::Bf16 && !ops::bf16_supported() {
            continue;
        }
        let tolerance = tolerance(precision);
        let (expected, slopes) = run(&inputs, tracked, oracle);
        assert!(ops::set_precision(precision));
        let (found, gradients) = run(&inputs, tracked, kernel);
        assert!(ops::set_precision(Precision::F32));
        let worst = error(&found, &expected);
        assert!(worst < tolerance, "{name} in {precision:?}: output differs by {worst}");
        // Equal to the last bits would mean that bf16 was not used, as for these convolutions
        // without AMX.
        let narrow = precision == Precision::Bf16 && (name != HALF_BLOCK || ops::amx_active());
        assert!(narrow == (worst > 1e-5), "{name} in {precision:?}: output differs by {worst}");
        for (i, (found, expected)) in gradients.iter().zip(&slopes).enumerate() {
            assert_eq!(found.is_some(), tracked[i], "{name}: gradient {i}");
            let Some((found, expected)) = found.as_ref().zip(expected.as_ref()) else { continue };
            let worst = error(found, expected);
            assert!(worst < tolerance, "{name} in {precision:?}: gradient {i} differs by {worst}");
        }
    }
}

#[test]
fn operations_and_parts_are_near_the_reference() {
    if !ops::bf16_supported() {
        eprintln!("f32 only: this CPU has no bf16 multiply-adds");
    }
    for [b, l, k, d] in [[2, 256, 64, 128], [3, 50, 24, 20]] {
        let x = move |t: &[Tensor<1>]| t[0].clone().reshape([b, l, k]);
        let w = move |t: &[Tensor<1>]| t[1].clone().reshape([2 * d, k]);
        let sizes = [b * l * k, 2 * d * k, 2 * d];
        let back = move |t: &[Tensor<1>]| t[3].clone().reshape([k, d]);
        let norm = |t: &[Tensor<1>], at: usize| ops::Norm {
            weight: t[at].clone() + 1.0,
            bias: t[at + 1].clone(),
            eps: 1e-5,
        };
        let normed = move |t: &[Tensor<1>], at: usize| {
            reference::layer_norm(x(t), t[at].clone() + 1.0, t[at + 1].clone(), 1e-5)
        };
        compare(
            "feed-forward block",
            &[b * l * k, 2 * d * k, 2 * d, k * d, k, k, k],
            &|t| {
                let (first, second) = ((w(t), t[2].clone()), (back(t), t[4].clone()));
                ops::feed_forward(x(t), norm(t, 5), first, second).reshape([-1])
            },
            &|t| {
                let h = reference::linear(normed(t, 5), w(t), Some(t[2].clone()));
                let out = reference::linear(reference::geglu(h), back(t), Some(t[4].clone()));
                (out + x(t)).reshape([-1])
            },
        );
        // Scores of large weights would be so far apart that a rounding decides which key is seen.
        let square = move |t: &[Tensor<1>], at: usize| t[at].clone().reshape([k, k]) * 0.2;
        let weights = move |t: &[Tensor<1>]| [1, 2, 3].map(|at| square(t, at));
        let out = move |t: &[Tensor<1>]| (square(t, 4), t[5].clone());
        for context in [false, true] {
            let of_context = move |t: &[Tensor<1>]| t[8].clone().reshape([b, 32, k]);
            let mut sizes = vec![b * l * k, k * k, k * k, k * k, k * k, k, k, k];
            sizes.extend(context.then_some(b * 32 * k));
            compare(
                "attention block",
                &sizes,
                &|t| {
                    let seen = context.then(|| of_context(t));
                    ops::fused_attention(x(t), norm(t, 6), seen, weights(t), out(t), 4)
                        .reshape([-1])
                },
                &|t| {
                    let [wq, wk, wv] = weights(t);
                    let seen = if context { of_context(t) } else { normed(t, 6) };
                    let q = reference::linear(normed(t, 6), wq, None);
                    let key = reference::linear(seen.clone(), wk, None);
                    let v = reference::linear(seen, wv, None);
                    let (wo, bo) = out(t);
                    let heads = reference::attention(q, key, v, 4, false);
                    (reference::linear(heads, wo, Some(bo)) + x(t)).reshape([-1])
                },
            );
        }
        compare(
            "linear",
            &sizes,
            &|t| ops::linear(x(t), w(t), Some(t[2].clone())).reshape([-1]),
            &|t| reference::linear(x(t), w(t), Some(t[2].clone())).reshape([-1]),
        );
        let q = move |t: &Tensor<1>| t.clone().reshape([b, l, k]);
        compare(
            "attention",
            &[b * l * k; 3],
            &|t| ops::attention(q(&t[0]), q(&t[1]), q(&t[2]), 4, false).reshape([-1]),
            &|t| reference::attention(q(&t[0]), q(&t[1]), q(&t[2]), 4, false).reshape([-1]),
        );
    }
    for added in 0..3 {
        let [n, c, out, h] = [9, 32, 16, 8];
        let x = move |t: &[Tensor<1>]| t[0].clone().reshape([n, c, h, h]);
        let norm = |t: &[Tensor<1>]| (t[1].clone() + 1.0, t[2].clone());
        let w = move |t: &[Tensor<1>]| t[3].clone().reshape([out, c, 3, 3]);
        let per_channel = move |t: &[Tensor<1>]| t[5].clone().reshape([n, out]);
        let image = move |t: &[Tensor<1>]| t[5].clone().reshape([n, out, h, h]);
        let mut sizes = vec![n * c * h * h, c, c, out * c * 9, out];
        sizes.extend([None, Some(n * out), Some(n * out * h * h)][added]);
        compare(
            HALF_BLOCK,
            &sizes,
            &|t| {
                let (weight, bias) = norm(t);
                let norm = ops::Norm { weight, bias, eps: 1e-5 };
                let plus = match added {
                    0 => ops::Added::Nothing,
                    1 => ops::Added::Channels(per_channel(t)),
                    _ => ops::Added::Image(image(t)),
                };
                ops::norm_conv(x(t), norm, 4, (w(t), t[4].clone()), [1; 4], plus).reshape([-1])
            },
            &|t| {
                let (weight, bias) = norm(t);
                let normed = reference::group_norm(x(t), weight, bias, 4, 1e-5, true);
                let y = reference::conv2d(normed, w(t), Some(t[4].clone()), 1, [1; 4]);
                let y = match added {
                    0 => y,
                    1 => reference::add_channel(y, per_channel(t)),
                    _ => y + image(t),
                };
                y.reshape([-1])
            },
        );
    }
}
