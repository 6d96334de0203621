//! Linear maps and convolutions in bf16. The precision is global to the process, so one test at a
//! time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod common;
use common::narrow::{in_bf16, rounded};
use common::{
    Rng, attention as reference, attention_shapes, close, conv, conv_shapes, matmul as naive, turn,
    wide,
};
use craft_kernels::*;

/// Values of which every fourth lies half-way between two bf16.
fn values(r: &mut Rng, n: usize) -> Vec<f32> {
    let mut v = r.vec(n);
    for v in v.iter_mut().step_by(4) {
        *v = f32::from_bits(v.to_bits() & 0xFFFF_0000 | 0x8000);
    }
    v
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

/// The shapes of the `f32` tests, and random ones.
fn shapes(r: &mut Rng) -> Vec<ConvShape> {
    let mut all = conv_shapes();
    // Every other one with channels that AMX tiles read in place.
    let channels = |r: &mut Rng, whole| if whole { 32 * (1 + r.below(3)) } else { 1 + r.below(40) };
    for i in 0..60 {
        let kernel = [1 + r.below(4), 1 + r.below(4)];
        let s = ConvShape {
            batch: 1 + r.below(3),
            in_channels: channels(r, i % 2 == 0),
            out_channels: channels(r, i % 4 == 0),
            height: kernel[0] + r.below(12),
            width: kernel[1] + r.below(12),
            kernel,
            stride: [1 + r.below(2), 1 + r.below(2)],
            padding: std::array::from_fn(|_| r.below(2)),
        };
        all.push(s);
    }
    // Whole rows in a vector: padding that keeps the width, on either side.
    for i in 0..36 {
        let (rows, left) = (1 + r.below(3), i % 3);
        let s = ConvShape {
            batch: 1 + r.below(9),
            in_channels: channels(r, i % 2 == 0),
            out_channels: channels(r, i % 4 == 0),
            height: rows + r.below(9),
            width: 1 << (i % 6),
            kernel: [rows, 3],
            stride: [1, 1],
            padding: [r.below(3), r.below(3), left, 2 - left],
        };
        all.push(s);
    }
    all
}

struct Case {
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    dy: Vec<f32>,
}

impl Case {
    fn conv(r: &mut Rng, s: &ConvShape) -> Self {
        let (w, b) = (s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1], s.out_channels);
        let y = s.batch * s.out_channels * s.out_height() * s.out_width();
        let x = s.batch * s.in_channels * s.height * s.width;
        Self { x: values(r, x), w: values(r, w), b: r.vec(b), dy: values(r, y) }
    }
    fn rounded(&self) -> Self {
        let Self { x, w, b, dy } = self;
        Self { x: rounded(x), w: rounded(w), b: b.clone(), dy: rounded(dy) }
    }
    fn passes(&self, s: &ConvShape) -> [Vec<f32>; 3] {
        let Self { x, w, b, dy } = self;
        [
            conv2d(x, w, Some(b), s),
            conv2d_backward_input(dy, w, s),
            conv2d_backward_weight(x, dy, s),
        ]
    }
}

#[test]
fn convolutions_round_both_factors_and_nothing_else() {
    in_bf16(|| {
        let mut r = Rng(31);
        for s in shapes(&mut r) {
            let case = Case::conv(&mut r, &s);
            let Case { x, w, b, dy } = &case;
            let exact = conv(x, w, b, dy, &s);
            let narrow = case.rounded();
            let rounded = conv(&narrow.x, &narrow.w, &narrow.b, &narrow.dy, &s);
            let (got, again) = (case.passes(&s), narrow.passes(&s));
            // Winograd's way is one of f32, and so is the weight gradient of an odd width.
            let direct = !s.winograd();
            let in_bf16 = [direct, direct, !s.winograd_weight() && s.out_width() % 2 == 0];
            for (i, name) in ["y", "dx", "dw"].into_iter().enumerate() {
                let what = format!("{name} {s:?}");
                let want = if in_bf16[i] { &rounded[i] } else { &exact[i] };
                close(&got[i], want, 1e-5, &what);
                if in_bf16[i] {
                    assert_eq!(bits(&got[i]), bits(&again[i]), "{what}");
                }
            }
        }
    });
}

#[test]
fn linear_maps_round_both_factors_and_nothing_else() {
    in_bf16(|| {
        let mut r = Rng(32);
        let mut shapes = vec![
            (1, 1, 1),
            (1, 17, 5),
            (5, 33, 70),
            (64, 64, 64),
            (130, 300, 49),
            (40, 1100, 100),
            (33, 8, 1),
            (200, 31, 257),
            (7, 513, 96),
            (9000, 5, 3),
        ];
        shapes.extend((0..40).map(|_| (1 + r.below(150), 1 + r.below(150), 1 + r.below(150))));
        for (m, k, n) in shapes {
            let what = format!("{m} {k} {n}");
            let (x, w, dy) = (values(&mut r, m * k), values(&mut r, n * k), values(&mut r, m * n));
            let b = r.vec(n);
            let passes = |x: &[f32], w: &[f32], dy: &[f32]| {
                [
                    linear(x, w, Some(&b), m, k, n),
                    linear_backward_input(dy, w, m, k, n),
                    linear_backward_weight(x, dy, m, k, n),
                ]
            };
            let got = passes(&x, &w, &dy);
            let (x, w, dy) = (rounded(&x), rounded(&w), rounded(&dy));
            let again = passes(&x, &w, &dy);
            for (got, again) in got.iter().zip(&again) {
                assert_eq!(bits(got), bits(again), "{what}");
            }
            let (x, w, dy) = (wide(&x), wide(&w), wide(&dy));
            let mut y = naive(&x, &turn(&w, n, k), m, k, n);
            for (i, v) in y.iter_mut().enumerate() {
                *v += f64::from(b[i % n]);
            }
            close(&got[0], &y, 1e-5, &what);
            close(&got[1], &naive(&dy, &w, m, n, k), 1e-5, &what);
            close(&got[2], &naive(&turn(&dy, m, n), &x, n, m, k), 1e-5, &what);
        }
    });
}

/// out, lse, dq, dk, dv.
fn attend(
    [q, k, v, dout]: [&[f32]; 4],
    s: &AttentionShape,
    scale: f32,
    causal: bool,
) -> [Vec<f32>; 5] {
    let (out, lse) = attention(q, k, v, s, scale, causal);
    let (dq, dk, dv) = attention_backward(q, k, v, &out, &lse, dout, s, scale, causal);
    [out, lse, dq, dk, dv]
}

#[test]
fn attention_rounds_its_factors_and_its_probabilities() {
    in_bf16(|| {
        let mut r = Rng(33);
        let mut shapes = attention_shapes();
        shapes.extend((0..20).map(|_| AttentionShape {
            batch: 1 + r.below(3),
            heads: 1 + r.below(4),
            queries: 1 + r.below(150),
            keys: 1 + r.below(150),
            head_dim: 1 + r.below(80),
        }));
        for s in shapes {
            let AttentionShape { batch, heads, queries, keys, head_dim } = s;
            let (lq, lk) = (batch * queries * heads * head_dim, batch * keys * heads * head_dim);
            let (q, k) = (rounded(&r.vec(lq)), rounded(&r.vec(lk)));
            let (v, dout) = (rounded(&r.vec(lk)), rounded(&r.vec(lq)));
            for causal in [false, true] {
                let want = reference(&q, &k, &v, &dout, &s, 0.25, causal);
                let got = attend([&q, &k, &v, &dout], &s, 0.25, causal);
                for (i, name) in ["out", "lse", "dq", "dk", "dv"].into_iter().enumerate() {
                    // Scores are exact; what is multiplied after them is rounded to 8 bits.
                    let tolerance = if name == "lse" { 1e-5 } else { 1e-2 };
                    close(&got[i], &want[i], tolerance, &format!("{name} {s:?} {causal}"));
                }
                // Factors that need rounding give what rounded ones give.
                let part = |x: &[f32]| x.iter().map(|v| v * (1.0 + 1e-4)).collect::<Vec<_>>();
                let again = attend([&part(&q), &part(&k), &part(&v), &dout], &s, 0.25, causal);
                assert_eq!(bits(&got[0]), bits(&again[0]), "{s:?} {causal}");
                // The last sequence alone gives what it gives among others.
                let (one, at) = (AttentionShape { batch: 1, ..s }, batch - 1);
                let last = |x: &[f32]| x[x.len() / batch * at..].to_vec();
                let (q, k, v, dout) = (last(&q), last(&k), last(&v), last(&dout));
                let alone = attend([&q, &k, &v, &dout], &one, 0.25, causal);
                for (all, alone) in got.iter().zip(&alone) {
                    assert_eq!(bits(&last(all)), bits(alone), "{s:?} {causal}");
                }
            }
        }
    });
}

#[test]
fn gradients_in_one_pass_are_those_of_many() {
    in_bf16(|| {
        let mut r = Rng(34);
        let mut shapes = vec![
            (512, 16, 16),
            (2048, 64, 512),
            (2048, 256, 64),
            (8192, 64, 64),
            // Those that are not taken in one pass.
            (496, 64, 64),
            (2048, 64, 60),
            (1024, 512, 256),
        ];
        let mut tiles = |most| 16 * (1 + r.below(most));
        shapes.extend((0..12).map(|_| (512 + tiles(80), tiles(12), tiles(12))));
        for (m, k, n) in shapes {
            let what = format!("{m} {k} {n}");
            let (x, w, dy) = (values(&mut r, m * k), values(&mut r, n * k), values(&mut r, m * n));
            let want = [
                linear_backward_input(&dy, &w, m, k, n),
                linear_backward_weight(&x, &dy, m, k, n),
                linear_backward_bias(&dy, m, n),
            ];
            let got = linear_gradients(&x, &w, &dy, [m, k, n], [true; 3]);
            let [Some(dx), Some(dw), Some(db)] = got else { panic!("a gradient is missing") };
            assert_eq!(bits(&dx), bits(&want[0]), "{what}");
            close(&dw, &wide(&want[1]), 1e-5, &what);
            close(&db, &wide(&want[2]), 1e-5, &what);
            for i in 0..3 {
                let wants = std::array::from_fn(|j| i != j);
                let some = linear_gradients(&x, &w, &dy, [m, k, n], wants);
                assert_eq!(some.each_ref().map(Option::is_some), wants);
            }
        }
    });
}

#[test]
fn empty_sums_are_the_bias_and_the_probe_counts() {
    in_bf16(|| {
        let y = linear(&[], &[], Some(&[1.0, 2.0]), 3, 0, 2);
        assert_eq!(y, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
        assert_eq!(linear_backward_weight(&[], &[], 0, 3, 2), [0.0; 6]);
        let one = multiply_add_probe(1, 64);
        assert!(one > 0, "no work was done");
        assert_eq!([multiply_add_probe(1, 128), multiply_add_probe(3, 64)], [2 * one, 3 * one]);
    });
}

#[test]
fn infinities_and_nan_are_not_lost() {
    in_bf16(|| {
        for (value, expected) in [
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (f32::NAN, f32::NAN),
            (f32::from_bits(0x7F80_0001), f32::NAN),
            (f32::from_bits(0x7FFF_FFFF), f32::NAN),
        ] {
            let same =
                |v: f32| v.to_bits() == expected.to_bits() || v.is_nan() && expected.is_nan();
            let y = linear(&[1.0, value, 1.0], &[1.0; 3], None, 1, 3, 1);
            assert!(same(y[0]), "{value}: {y:?}");
            let s = ConvShape {
                batch: 1,
                in_channels: 1,
                out_channels: 1,
                height: 1,
                width: 2,
                kernel: [1, 1],
                stride: [1, 1],
                padding: [0; 4],
            };
            let y = conv2d(&[1.0, value], &[1.0], None, &s);
            assert!(y[0] == 1.0 && same(y[1]), "{value}: {y:?}");
            let y = conv2d(&[1.0, 2.0], &[value], None, &s);
            assert!(y.iter().all(|&v| same(v)), "{value} as a weight: {y:?}");
        }
    });
}

#[test]
fn batch_and_threads_do_not_matter() {
    in_bf16(|| {
        let run = || {
            let mut r = Rng(33);
            let mut out = vec![];
            for s in conv_shapes() {
                let s = ConvShape { batch: 9, ..s };
                out.extend(Case::conv(&mut r, &s).passes(&s));
            }
            for (m, k, n) in [(300, 321, 200), (3000, 64, 100), (20, 701, 500)] {
                let (x, w, dy) = (r.vec(m * k), r.vec(n * k), r.vec(m * n));
                out.push(linear(&x, &w, None, m, k, n));
                out.push(linear_backward_input(&dy, &w, m, k, n));
                out.push(linear_backward_weight(&x, &dy, m, k, n));
            }
            out.iter().map(|v| bits(v)).collect::<Vec<_>>()
        };
        let pool = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
        };
        assert!(pool(1) == pool(3), "three threads differ from one");

        let mut r = Rng(34);
        for s in conv_shapes() {
            let (all, one) = (ConvShape { batch: 11, ..s }, ConvShape { batch: 1, ..s });
            let case = Case::conv(&mut r, &all);
            let [y, dx, _] = case.passes(&all);
            let (lx, ly) = (dx.len() / 11, y.len() / 11);
            for i in [0, 4, 10] {
                let single = Case {
                    x: case.x[i * lx..(i + 1) * lx].to_vec(),
                    dy: case.dy[i * ly..(i + 1) * ly].to_vec(),
                    w: case.w.clone(),
                    b: case.b.clone(),
                };
                let [y1, dx1, _] = single.passes(&one);
                assert_eq!(bits(&y1), bits(&y[i * ly..(i + 1) * ly]), "{s:?}");
                assert_eq!(bits(&dx1), bits(&dx[i * lx..(i + 1) * lx]), "{s:?}");
            }
        }
        for (k, n) in [(64, 33), (701, 100), (37, 257)] {
            let (x, w) = (r.vec(301 * k), r.vec(n * k));
            let y = linear(&x, &w, None, 301, k, n);
            for i in [0, 7, 95, 300] {
                let one = linear(&x[i * k..(i + 1) * k], &w, None, 1, k, n);
                assert_eq!(bits(&one), bits(&y[i * n..(i + 1) * n]));
            }
        }
    });
}

#[test]
fn lower_levels_stay_in_f32() {
    in_bf16(|| {
        let mut r = Rng(35);
        let (x, w) = (r.vec(20 * 30), r.vec(10 * 30));
        let narrow = linear(&x, &w, None, 20, 30, 10);
        assert!(set_simd_level(Some(SimdLevel::Avx2)));
        let full = linear(&x, &w, None, 20, 30, 10);
        assert!(set_simd_level(None));
        let want = naive(&wide(&x), &turn(&wide(&w), 10, 30), 20, 30, 10);
        close(&full, &want, 1e-5, "avx2");
        let off = narrow.iter().zip(&want).any(|(&a, &b)| (f64::from(a) - b).abs() > 1e-4);
        assert!(off, "bf16 was not used");
    });
}
