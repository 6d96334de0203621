//! The parts of transformer and residual blocks against the operations that they are made of.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod common;
use common::narrow::{in_bf16, in_both_formats, in_f32_at_all_levels, rounded};
use common::{Rng, close, wide};
use craft_kernels::*;

/// A layer norm's weight near 1 and bias near 0.
fn affine(r: &mut Rng, d: usize) -> [Vec<f32>; 2] {
    [(0..d).map(|_| 1.0 + 0.2 * r.value()).collect(), r.vec(d)]
}

const EPS: f32 = 1e-5;

#[test]
fn the_fused_feed_forward_is_its_steps() {
    in_both_formats(|bf16| {
        let mut r = Rng(35);
        assert!(!fuses_feed_forward([2048, 60, 256]));
        // In f32 no batch may change a result, so rows do not count.
        assert_eq!(fuses_feed_forward([16, 64, 256]), !bf16);
        let few = if bf16 { vec![] } else { vec![(1, 16, 32), (37, 64, 48)] };
        let enough = [(512, 16, 16), (2048, 64, 256), (1040, 48, 48)];
        for (m, k, d) in enough.into_iter().chain(few) {
            let lengths = [m, k, d];
            assert!(fuses_feed_forward(lengths));
            let what = format!("{m} {k} {d}");
            let (x, w1, b1) = (r.vec(m * k), r.vec(2 * d * k), r.vec(2 * d));
            let (w2, b2, dy) = (r.vec(k * d), r.vec(k), r.vec(m * k));
            let [weight, bias] = affine(&mut r, k);
            let norm = Norm { weight: &weight, bias: &bias, eps: EPS };
            let f = FeedForward { x: &x, norm, w1: &w1, b1: &b1, w2: &w2, b2: &b2 };
            let (normed, mean, rstd) = layer_norm(&x, &weight, &bias, m, k, EPS);
            // The bias comes after the product, as in the fused block: in another order some values
            // would round to another bf16.
            let mut h = linear(&normed, &w1, None, m, k, 2 * d);
            h.chunks_exact_mut(2 * d)
                .for_each(|h| h.iter_mut().zip(&b1).for_each(|(h, b)| *h += b));
            let inner = geglu(&h, m, d);
            let (y, kept) = feed_forward(&f, lengths, true);
            let want = add(&linear(&inner, &w2, Some(&b2), m, d, k), &x);
            close(&y, &wide(&want), 1e-5, &what);
            assert_eq!(feed_forward(&f, lengths, false), (y, None), "{what}");
            assert_eq!(kept.is_some(), bf16, "{what}");
            let got = feed_forward_backward(&f, kept.as_deref(), &dy, lengths, true);
            let some = feed_forward_backward(&f, kept.as_deref(), &dy, lengths, false);
            assert_eq!(some[..3], got[..3]);
            assert!(some[3..].iter().all(Option::is_none));
            let got = got.map(Option::unwrap);
            // With the gate's input rounded, as it is kept in bf16, and without.
            let ways = if bf16 { vec![(rounded(&h), 1e-3), (h, 1e-2)] } else { vec![(h, 1e-5)] };
            for (h, tolerance) in ways {
                let inner = geglu(&h, m, d);
                let second = linear_gradients(&inner, &w2, &dy, [m, d, k], [true; 3]);
                let [dinner, dw2, db2] = second.map(Option::unwrap);
                let dh = geglu_backward(&h, &dinner, m, d);
                let first = linear_gradients(&normed, &w1, &dh, [m, k, 2 * d], [true; 3]);
                let [dnormed, dw1, db1] = first.map(Option::unwrap);
                let (dx, dw, db) = layer_norm_backward(&x, &dnormed, &weight, &mean, &rstd, m, k);
                for (got, want) in got.iter().zip([add(&dx, &dy), dw, db, dw1, db1, dw2, db2]) {
                    close(got, &wide(&want), tolerance, &what);
                }
            }
        }
    });
}

/// Sequences, heads, queries, keys where the context is another, width of a head, of the tokens, of
/// the context's.
type Lengths = (usize, usize, usize, Option<usize>, usize, usize, usize);

#[test]
fn the_attention_part_is_its_parts() {
    in_both_formats(|bf16| {
        let (near, nearly) = if bf16 { (1e-3, 2e-3) } else { (1e-5, 1e-5) };
        let mut r = Rng(36);
        let cases: [Lengths; 6] = [
            (8, 4, 64, None, 16, 64, 64),
            (33, 4, 16, None, 16, 64, 64),
            (8, 4, 64, Some(32), 16, 64, 96),
            (40, 2, 50, Some(77), 24, 32, 16),
            (5, 2, 200, None, 40, 48, 48),
            (3, 1, 256, Some(1), 32, 16, 32),
        ];
        let few = if bf16 { vec![] } else { vec![(1, 2, 7, None, 16, 32, 32)] };
        for case in cases.into_iter().chain(few) {
            let (batch, heads, queries, other, head_dim, width, context_width) = case;
            let what = format!("{case:?}");
            let keys = other.unwrap_or(queries);
            let shape = FusedAttentionShape {
                attention: AttentionShape { batch, heads, queries, keys, head_dim },
                width,
                context_width,
            };
            assert!(fuses_attention(&shape), "{what}");
            let (m, mc, inner) = (batch * queries, batch * keys, heads * head_dim);
            let (x, c, dy) = (r.vec(m * width), r.vec(mc * context_width), r.vec(m * width));
            let (wq, wk) = (r.vec(inner * width), r.vec(inner * context_width));
            let (wv, wo, bo) = (r.vec(inner * context_width), r.vec(width * inner), r.vec(width));
            let [weight, bias] = affine(&mut r, width);
            let norm = Norm { weight: &weight, bias: &bias, eps: EPS };
            let context = other.map(|_| c.as_slice());
            let p = FusedAttention {
                x: &x,
                norm,
                context,
                wq: &wq,
                wk: &wk,
                wv: &wv,
                wo: &wo,
                bo: &bo,
            };
            let (normed, mean, rstd) = layer_norm(&x, &weight, &bias, m, width, EPS);
            let seen = context.unwrap_or(&normed);
            let q = linear(&normed, &wq, None, m, width, inner);
            let k = linear(seen, &wk, None, mc, context_width, inner);
            let v = linear(seen, &wv, None, mc, context_width, inner);
            let (scale, a) = (1.0 / (head_dim as f32).sqrt(), &shape.attention);
            let (out, lse) = attention(&q, &k, &v, a, scale, false);
            let want = add(&linear(&out, &wo, Some(&bo), m, inner, width), &x);
            let (y, kept) = fused_attention(&p, &shape, true);
            close(&y, &wide(&want), near, &what);
            assert_eq!(fused_attention(&p, &shape, false), (y, None), "{what}");
            let kept = kept.unwrap();
            close(&kept[0], &wide(&out), near, &what);
            close(&kept[1], &wide(&lse), near, &what);

            let kept = kept.each_ref().map(Vec::as_slice);
            let got = fused_attention_backward(&p, kept, &dy, &shape, (true, true));
            let of = linear_gradients(&out, &wo, &dy, [m, inner, width], [true; 3]);
            let [dout, dwo, dbo] = of.map(Option::unwrap);
            let (dq, dk, dv) = attention_backward(&q, &k, &v, &out, &lse, &dout, a, scale, false);
            let lengths = [mc, context_width, inner];
            let [dn, dwq, _] =
                linear_gradients(&normed, &wq, &dq, [m, width, inner], [true, true, false]);
            let [dck, dwk, _] = linear_gradients(seen, &wk, &dk, lengths, [true, true, false]);
            let [dcv, dwv, _] = linear_gradients(seen, &wv, &dv, lengths, [true, true, false]);
            let dc = add(&dck.unwrap(), &dcv.unwrap());
            let dn = if other.is_some() { dn.unwrap() } else { add(&dn.unwrap(), &dc) };
            let (dx, dw, db) = layer_norm_backward(&x, &dn, &weight, &mean, &rstd, m, width);
            close(&got.x, &wide(&add(&dx, &dy)), nearly, &what);
            for (got, want) in got.norm.iter().zip([dw, db]) {
                close(got, &wide(&want), nearly, &what);
            }
            assert_eq!(got.context.is_some(), other.is_some(), "{what}");
            if let Some(got) = &got.context {
                close(got, &wide(&dc), nearly, &what);
            }
            let want = [dwq.unwrap(), dwk.unwrap(), dwv.unwrap(), dwo, dbo];
            for (got, want) in got.weights.as_ref().unwrap().iter().zip(want) {
                close(got, &wide(&want), nearly, &what);
            }
            let less = fused_attention_backward(&p, kept, &dy, &shape, (false, false));
            assert!(less.x == got.x && less.norm == got.norm, "{what}");
            assert!(less.context.is_none() && less.weights.is_none(), "{what}");
        }
    });
}

#[test]
fn long_sequences_and_odd_widths_are_not_fused() {
    in_both_formats(|bf16| {
        let of = |queries, width, heads| FusedAttentionShape {
            attention: AttentionShape { batch: 16, heads, queries, keys: queries, head_dim: 16 },
            width,
            context_width: width,
        };
        assert!(fuses_attention(&of(64, 64, 4)));
        assert_eq!(fuses_attention(&of(1, 64, 4)), !bf16);
        for shape in [of(1024, 64, 4), of(64, 60, 4), of(64, 640, 40)] {
            assert!(!fuses_attention(&shape), "{shape:?}");
        }
    });
}

/// Batch, channels in and out, height, width, kernel, groups.
type ConvLengths = (usize, usize, usize, usize, usize, usize, usize);

/// A convolution with padding that keeps the image's size.
fn conv_shape(case: ConvLengths) -> (ConvShape, usize) {
    let (batch, in_channels, out_channels, height, width, kernel, groups) = case;
    let (kernel, stride, padding) = ([kernel; 2], [1, 1], [kernel / 2; 4]);
    let s = ConvShape { batch, in_channels, out_channels, height, width, kernel, stride, padding };
    (s, groups)
}

/// Everything that half a residual block computes against its parts.
fn half_a_residual_block(r: &mut Rng, (s, groups): (ConvShape, usize), tolerance: f64) {
    let what = format!("{s:?}, {groups} groups at {:?}", simd_level());
    let (batch, ci, co) = (s.batch, s.in_channels, s.out_channels);
    let [hw, out] = [s.height * s.width, s.out_height() * s.out_width()];
    let (x, dy) = (r.vec(batch * ci * hw), r.vec(batch * co * out));
    let (w, bias) = (r.vec(co * ci * s.kernel[0] * s.kernel[1]), r.vec(co));
    let (channels, image) = (r.vec(batch * co), r.vec(batch * co * out));
    let [weight, shift] = affine(r, ci);
    let norm = GroupNormSilu { weight: &weight, bias: &shift, groups, eps: EPS };
    let (normed, mean, rstd) = group_norm(&x, &weight, &shift, batch, ci, hw, groups, EPS, true);
    let plain = conv2d(&normed, &w, Some(&bias), &s);
    for added in [Added::Nothing, Added::Channels(&channels), Added::Image(&image)] {
        let p = NormConv { x: &x, norm, w: &w, bias: &bias, added };
        let (y, stats) = norm_conv(&p, &s);
        let want = match added {
            Added::Nothing => plain.clone(),
            Added::Channels(t) => add_channel(&plain, t, batch, co, out),
            Added::Image(t) => add(&plain, t),
        };
        close(&y, &wide(&want), tolerance, &what);
        let of_groups: Vec<f32> = mean.iter().zip(&rstd).flat_map(|(m, r)| [*m, *r]).collect();
        assert_eq!(stats, of_groups, "{what}");
        let got = norm_conv_backward(&p, &stats, &dy, &s, true);
        let above = conv2d_backward_input(&dy, &w, &s);
        let (dx, dweight, dshift) = group_norm_backward(
            &x, &above, &weight, &shift, &mean, &rstd, batch, ci, hw, groups, true,
        );
        close(&got.x, &wide(&dx), tolerance, &what);
        close(&got.norm[0], &wide(&dweight), tolerance, &what);
        close(&got.norm[1], &wide(&dshift), tolerance, &what);
        let dw = conv2d_backward_weight(&normed, &dy, &s);
        close(got.w.as_ref().unwrap(), &wide(&dw), tolerance, &what);
        close(&got.bias, &wide(&conv2d_backward_bias(&dy, &s)), tolerance, &what);
        let of_channels = add_channel_backward(&dy, batch, co, out);
        close(&got.channels, &wide(&of_channels), tolerance, &what);
        let less = norm_conv_backward(&p, &stats, &dy, &s, false);
        assert!(less.w.is_none() && less.x == got.x && less.norm == got.norm, "{what}");
    }
}

#[test]
fn the_half_residual_block_is_its_parts() {
    in_bf16(|| {
        let mut r = Rng(37);
        let cases: [ConvLengths; 5] = [
            (32, 32, 32, 16, 16, 3, 8),
            (8, 64, 64, 8, 8, 3, 8),
            (9, 96, 32, 6, 12, 3, 4),
            (11, 12, 4, 9, 10, 3, 3),
            (8, 32, 48, 8, 8, 1, 1),
        ];
        for case in cases.map(conv_shape) {
            // Without tiles those that suit go Winograd's way.
            let fuses = amx_active() || case.0.winograd();
            assert_eq!(fuses_norm_conv(&case.0), fuses, "{case:?}");
            if fuses {
                half_a_residual_block(&mut r, case, 1e-5);
            }
        }
    });
}

#[test]
fn the_half_residual_block_is_its_parts_in_f32() {
    in_f32_at_all_levels(|| {
        let mut r = Rng(39);
        // Images that are tasks of their own and ones that are not, few tiles, panels of output
        // channels.
        let cases: [ConvLengths; 7] = [
            (1, 16, 16, 4, 4, 3, 4),
            (9, 16, 48, 4, 4, 3, 16),
            (9, 32, 16, 33, 20, 3, 8),
            (1, 48, 17, 33, 20, 3, 1),
            (17, 20, 33, 7, 5, 3, 5),
            (2, 340, 330, 8, 9, 3, 10),
            (9, 33, 32, 16, 16, 3, 3),
        ];
        let mut cases: Vec<_> = cases.map(conv_shape).into();
        for _ in 0..12 {
            let groups = 1 + r.below(4);
            let (c, out) = (groups * (16_usize.div_ceil(groups) + r.below(12)), 16 + r.below(50));
            let size = (4 + r.below(14), 4 + r.below(14));
            let batch = [1, 9][r.below(2)];
            let (mut s, _) = conv_shape((batch, c, out, size.0, size.1, 3, 1));
            if r.below(3) == 0 && size.0.min(size.1) >= 6 {
                s.padding = [r.below(3), r.below(2), r.below(2), r.below(3)];
            }
            cases.push((s, groups));
        }
        for case in cases {
            assert!(fuses_norm_conv(&case.0), "{case:?}");
            half_a_residual_block(&mut r, case, 1e-5);
        }
    });
}

#[test]
fn direct_convolutions_in_f32_are_not_fused() {
    in_f32_at_all_levels(|| {
        for case in [(9, 12, 32, 8, 8, 3, 1), (9, 32, 32, 8, 8, 1, 1), (9, 32, 32, 3, 8, 3, 1)] {
            assert!(!fuses_norm_conv(&conv_shape(case).0), "{case:?}");
        }
        let suits = conv_shape((9, 32, 32, 8, 8, 3, 1)).0;
        set_winograd(false);
        assert!(!fuses_norm_conv(&suits));
        set_winograd(true);
        assert!(fuses_norm_conv(&suits));
        assert!(!fuses_norm_conv(&ConvShape { batch: 0, ..suits }));
    });
}

#[test]
fn threads_do_not_matter() {
    in_both_formats(|_| {
        let run = || {
            let mut r = Rng(38);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let mut all = vec![];
            let (m, k, d) = (1040, 48, 48);
            let (x, dy, w1, w2) = (r.vec(m * k), r.vec(m * k), r.vec(2 * d * k), r.vec(k * d));
            let (b1, b2, [weight, bias]) = (r.vec(2 * d), r.vec(k), affine(&mut r, k));
            let norm = Norm { weight: &weight, bias: &bias, eps: EPS };
            let f = FeedForward { x: &x, norm, w1: &w1, b1: &b1, w2: &w2, b2: &b2 };
            let (y, kept) = feed_forward(&f, [m, k, d], true);
            let got = feed_forward_backward(&f, kept.as_deref(), &dy, [m, k, d], true);
            all.push(bits(&y));
            all.extend(got.iter().flatten().map(|v| bits(v)));

            let attention =
                AttentionShape { batch: 26, heads: 2, queries: 40, keys: 40, head_dim: 24 };
            let shape = FusedAttentionShape { attention, width: k, context_width: k };
            let [wq, wk, wv, wo] = [0; 4].map(|_| r.vec(k * k));
            let (wq, wk, wv, wo) = (&wq, &wk, &wv, &wo);
            let p = FusedAttention { x: &x, norm, context: None, wq, wk, wv, wo, bo: &b2 };
            let (y, kept) = fused_attention(&p, &shape, true);
            let kept = kept.unwrap();
            let kept = kept.each_ref().map(Vec::as_slice);
            let got = fused_attention_backward(&p, kept, &dy, &shape, (false, true));
            all.push(bits(&y));
            all.push(bits(&got.x));
            all.extend(got.weights.iter().flatten().chain(&got.norm).map(|v| bits(v)));

            let s = ConvShape {
                batch: 13,
                in_channels: k,
                out_channels: 16,
                height: 8,
                width: 8,
                kernel: [3; 2],
                stride: [1; 2],
                padding: [1; 4],
            };
            if fuses_norm_conv(&s) {
                let (x, w) = (r.vec(13 * k * 64), r.vec(16 * k * 9));
                let dy = r.vec(13 * 16 * 64);
                let norm = GroupNormSilu { weight: &weight, bias: &bias, groups: 4, eps: EPS };
                let p = NormConv { x: &x, norm, w: &w, bias: &b2[..16], added: Added::Nothing };
                let (y, stats) = norm_conv(&p, &s);
                let got = norm_conv_backward(&p, &stats, &dy, &s, true);
                all.extend([&y, &got.x, &got.bias, got.w.as_ref().unwrap()].map(|v| bits(v)));
                all.extend(got.norm.iter().map(|v| bits(v)));
            }
            all
        };
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
        };
        let one = pool(1);
        assert!(one.len() > 14 && one == pool(3), "three threads differ from one");
    });
}
