//! Every operation with its kernels against the same one composed from Burn's own, on odd shapes:
//! values, and the gradient of every input, alone and together.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use burn::tensor::{Device, Tensor};
use common::{error, random, run};
use craft_nn::ops::{self, Act, reference};
use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;

const TOLERANCE: f32 = 1e-5;

#[track_caller]
fn compare(
    name: &str,
    sizes: &[usize],
    kernel: impl Fn(&[Tensor<1>]) -> Tensor<1>,
    oracle: impl Fn(&[Tensor<1>]) -> Tensor<1>,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(sizes.iter().sum::<usize>() as u64);
    let inputs: Vec<Vec<f32>> = sizes.iter().map(|&n| random(&mut rng, n)).collect();
    let all = vec![true; inputs.len()];
    let (expected, expected_gradients) = run(&inputs, &all, &oracle);
    let (found, gradients) = run(&inputs, &all, &kernel);
    let worst = error(&found, &expected);
    assert!(worst < TOLERANCE, "{name} {sizes:?}: output differs by {worst}");
    for (i, (found, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        let worst = error(found.as_ref().unwrap(), expected.as_ref().unwrap());
        assert!(worst < TOLERANCE, "{name} {sizes:?}: gradient {i} differs by {worst}");
    }
    // Each input's gradient alone is the same, bit for bit, and the others get none.
    for (i, together) in gradients.iter().enumerate() {
        let tracked: Vec<bool> = (0..inputs.len()).map(|j| i == j).collect();
        let (_, alone) = run(&inputs, &tracked, &kernel);
        for (j, gradient) in alone.iter().enumerate() {
            assert_eq!(gradient, if i == j { together } else { &None }, "{name}, input {j}");
        }
    }
}

fn flat<const D: usize>(t: Tensor<D>) -> Tensor<1> {
    let count: usize = t.dims().iter().product();
    t.reshape([count])
}

fn t<const D: usize>(inputs: &[Tensor<1>], index: usize, shape: [usize; D]) -> Tensor<D> {
    inputs[index].clone().reshape(shape)
}

#[test]
fn the_kernels_are_what_is_compared() {
    assert!(ops::has_kernels(&Device::flex()) && ops::has_kernels(&Device::flex().autodiff()));
}

#[test]
fn conv2d() {
    for ([n, ci, co, h, w], kernel, stride, padding, bias) in [
        ([2, 3, 5, 7, 9], 3, 1, [1; 4], true),
        ([1, 7, 4, 5, 5], 1, 1, [0; 4], true),
        ([3, 5, 6, 8, 11], 3, 2, [1; 4], true),
        ([2, 4, 3, 8, 6], 3, 2, [0, 1, 0, 1], true),
        ([2, 3, 9, 12, 12], 4, 4, [0; 4], false),
        ([1, 17, 33, 6, 7], 3, 1, [1; 4], false),
        ([1, 16, 16, 16, 16], 3, 1, [1; 4], true),
    ] {
        let sizes = [n * ci * h * w, co * ci * kernel * kernel, co];
        let (x, weight) = ([n, ci, h, w], [co, ci, kernel, kernel]);
        let bias_of = |i: &[Tensor<1>]| bias.then(|| i[2].clone());
        compare(
            "conv2d",
            &sizes[..if bias { 3 } else { 2 }],
            |i| flat(ops::conv2d(t(i, 0, x), t(i, 1, weight), bias_of(i), stride, padding)),
            |i| flat(reference::conv2d(t(i, 0, x), t(i, 1, weight), bias_of(i), stride, padding)),
        );
    }
}

#[test]
fn linear() {
    for (b, l, k, n, bias) in [(2, 7, 5, 9, true), (1, 1, 33, 17, false), (3, 19, 64, 48, true)] {
        let sizes = [b * l * k, n * k, n];
        let bias_of = |i: &[Tensor<1>]| bias.then(|| i[2].clone());
        compare(
            "linear",
            &sizes[..if bias { 3 } else { 2 }],
            |i| flat(ops::linear(t(i, 0, [b, l, k]), t(i, 1, [n, k]), bias_of(i))),
            |i| flat(reference::linear(t(i, 0, [b, l, k]), t(i, 1, [n, k]), bias_of(i))),
        );
    }
}

#[test]
fn attention() {
    for (b, heads, d, lq, lk, causal) in [
        (2, 3, 5, 7, 9, false),
        (1, 1, 16, 64, 77, false),
        (2, 2, 8, 11, 11, true),
        (1, 4, 40, 33, 33, false),
        (3, 2, 3, 2, 2, true),
    ] {
        let width = heads * d;
        let (q, k) = ([b, lq, width], [b, lk, width]);
        compare(
            "attention",
            &[b * lq * width, b * lk * width, b * lk * width],
            |i| flat(ops::attention(t(i, 0, q), t(i, 1, k), t(i, 2, k), heads, causal)),
            |i| flat(reference::attention(t(i, 0, q), t(i, 1, k), t(i, 2, k), heads, causal)),
        );
    }
}

#[test]
fn group_norm() {
    for ([n, c, h, w], groups, silu) in [
        ([2, 6, 3, 5], 3, false),
        ([2, 6, 3, 5], 3, true),
        ([1, 8, 7, 9], 1, true),
        ([3, 5, 4, 4], 5, false),
        ([2, 32, 8, 8], 8, true),
    ] {
        let x = [n, c, h, w];
        compare(
            "group_norm",
            &[n * c * h * w, c, c],
            |i| flat(ops::group_norm(t(i, 0, x), t(i, 1, [c]), t(i, 2, [c]), groups, 1e-5, silu)),
            |i| {
                let (x, weight, bias) = (t(i, 0, x), t(i, 1, [c]), t(i, 2, [c]));
                flat(reference::group_norm(x, weight, bias, groups, 1e-5, silu))
            },
        );
    }
}

#[test]
fn half_a_residual_block() {
    // One of them is too narrow to be fused.
    for ([n, c, out, h, w], groups) in [
        ([2, 16, 17, 5, 7], 4),
        ([9, 24, 16, 8, 8], 3),
        ([1, 32, 20, 13, 6], 8),
        ([2, 6, 4, 5, 5], 2),
    ] {
        let (x, weight) = ([n, c, h, w], [out, c, 3, 3]);
        for added in 0..3 {
            let mut sizes = vec![n * c * h * w, c, c, out * c * 9, out];
            sizes.extend([None, Some(n * out), Some(n * out * h * w)][added]);
            compare(
                "half a residual block",
                &sizes,
                |i| {
                    let norm = ops::Norm { weight: t(i, 1, [c]), bias: t(i, 2, [c]), eps: 1e-5 };
                    let plus = match added {
                        0 => ops::Added::Nothing,
                        1 => ops::Added::Channels(t(i, 5, [n, out])),
                        _ => ops::Added::Image(t(i, 5, [n, out, h, w])),
                    };
                    let conv = (t(i, 3, weight), t(i, 4, [out]));
                    flat(ops::norm_conv(t(i, 0, x), norm, groups, conv, [1; 4], plus))
                },
                |i| {
                    let (scale, shift) = (t(i, 1, [c]), t(i, 2, [c]));
                    let normed =
                        reference::group_norm(t(i, 0, x), scale, shift, groups, 1e-5, true);
                    let bias = Some(t(i, 4, [out]));
                    let y = reference::conv2d(normed, t(i, 3, weight), bias, 1, [1; 4]);
                    flat(match added {
                        0 => y,
                        1 => reference::add_channel(y, t(i, 5, [n, out])),
                        _ => y + t(i, 5, [n, out, h, w]),
                    })
                },
            );
        }
    }
}

#[test]
fn layer_norm() {
    for (b, l, d) in [(2, 3, 7), (1, 1, 33), (3, 17, 48)] {
        compare(
            "layer_norm",
            &[b * l * d, d, d],
            |i| flat(ops::layer_norm(t(i, 0, [b, l, d]), t(i, 1, [d]), t(i, 2, [d]), 1e-5)),
            |i| flat(reference::layer_norm(t(i, 0, [b, l, d]), t(i, 1, [d]), t(i, 2, [d]), 1e-5)),
        );
    }
}

#[test]
fn activations() {
    for kind in [Act::Gelu, Act::QuickGelu, Act::Silu] {
        for count in [1, 7, 1003] {
            // Wide enough to reach both tails.
            let wide = |i: &[Tensor<1>]| i[0].clone() * 6.0;
            compare(
                &format!("{kind:?}"),
                &[count],
                |i| ops::activation(wide(i), kind),
                |i| reference::activation(wide(i), kind),
            );
        }
    }
    for (b, l, d) in [(2, 3, 5), (1, 1, 1), (2, 9, 32)] {
        let x = [b, l, 2 * d];
        compare(
            "geglu",
            &[b * l * 2 * d],
            |i| flat(ops::geglu(t(i, 0, x) * 4.0)),
            |i| flat(reference::geglu(t(i, 0, x) * 4.0)),
        );
    }
}

#[test]
fn layouts() {
    for [n, c, h, w] in [[2, 3, 5, 7], [1, 17, 1, 9], [2, 16, 8, 8]] {
        let (image, tokens) = ([n, c, h, w], [n, h * w, c]);
        let size = n * c * h * w;
        compare(
            "to_tokens",
            &[size],
            |i| flat(ops::to_tokens(t(i, 0, image))),
            |i| flat(t(i, 0, [n, c, h * w]).swap_dims(1, 2)),
        );
        compare(
            "from_tokens",
            &[size],
            |i| flat(ops::from_tokens(t(i, 0, tokens), h, w)),
            |i| flat(t(i, 0, tokens).swap_dims(1, 2).reshape(image)),
        );
        compare(
            "upsample_nearest2x",
            &[size],
            |i| flat(ops::upsample_nearest2x(t(i, 0, image))),
            |i| flat(reference::upsample_nearest2x(t(i, 0, image))),
        );
        compare(
            "add_channel",
            &[size, n * c],
            |i| flat(ops::add_channel(t(i, 0, image), t(i, 1, [n, c]))),
            |i| flat(reference::add_channel(t(i, 0, image), t(i, 1, [n, c]))),
        );
        compare(
            "add",
            &[size, size],
            |i| flat(ops::add(t(i, 0, image), t(i, 1, image))),
            |i| i[0].clone() + i[1].clone(),
        );
        let other = [n, c + 2, h, w];
        compare(
            "concat_channels",
            &[size, n * (c + 2) * h * w],
            |i| flat(ops::concat_channels(t(i, 0, image), t(i, 1, other))),
            |i| flat(Tensor::cat(vec![t(i, 0, image), t(i, 1, other)], 1)),
        );
    }
}

#[test]
fn strided_views_and_inputs_used_twice() {
    // A transposed view reaches the kernels, and one tensor is both inputs.
    compare(
        "views",
        &[6 * 10, 4 * 6],
        |i| {
            let x = t(i, 0, [6, 10]).transpose();
            let y = ops::linear(x, t(i, 1, [4, 6]), None);
            flat(ops::add(y.clone(), y))
        },
        |i| {
            let x = t(i, 0, [6, 10]).transpose();
            flat(reference::linear(x, t(i, 1, [4, 6]), None) * 2.0)
        },
    );
    // The gradient of a sum is handed to both parts, which add more to it.
    let image = [2, 3, 5, 7];
    compare(
        "residual additions",
        &[210, 6],
        |i| {
            let x = t(i, 0, image);
            let y = ops::add(ops::activation(x.clone(), Act::Silu), x.clone());
            let z = ops::add(ops::activation(y.clone(), Act::Gelu), y);
            flat(ops::add(ops::add_channel(z.clone(), t(i, 1, [2, 3])), ops::add(x, z)))
        },
        |i| {
            let x = t(i, 0, image);
            let y = reference::activation(x.clone(), Act::Silu) + x.clone();
            let z = reference::activation(y.clone(), Act::Gelu) + y;
            flat(reference::add_channel(z.clone(), t(i, 1, [2, 3])) + (x + z))
        },
    );
    let x = [2, 5, 6];
    compare(
        "self-attention",
        &[60],
        |i| flat(ops::attention(t(i, 0, x), t(i, 0, x), t(i, 0, x), 2, false)),
        |i| flat(reference::attention(t(i, 0, x), t(i, 0, x), t(i, 0, x), 2, false)),
    );
}
