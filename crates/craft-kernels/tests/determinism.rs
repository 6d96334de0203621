//! Bit for bit: any batch, any number of threads.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]
mod common;
use common::{Rng, conv_shapes, half_residual_block};
use craft_kernels::*;

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

/// Results of every operation on fixed inputs, large enough to be split.
fn everything() -> Vec<Vec<u32>> {
    let mut r = Rng(11);
    let mut out = vec![];
    let mut shapes = conv_shapes();
    shapes.push(ConvShape {
        batch: 2,
        in_channels: 64,
        out_channels: 96,
        height: 16,
        width: 16,
        kernel: [3, 3],
        stride: [1, 1],
        padding: [1; 4],
    });
    shapes.push(ConvShape {
        batch: 5,
        in_channels: 64,
        out_channels: 96,
        height: 16,
        width: 16,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
    });
    shapes.push(ConvShape {
        batch: 3,
        in_channels: 131,
        out_channels: 136,
        height: 16,
        width: 16,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
    });
    shapes.push(ConvShape {
        batch: 5,
        in_channels: 64,
        out_channels: 64,
        height: 16,
        width: 16,
        kernel: [3, 3],
        stride: [2, 2],
        padding: [1; 4],
    });
    for s in shapes {
        let x = r.vec(s.batch * s.in_channels * s.height * s.width);
        let w = r.vec(s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1]);
        let b = r.vec(s.out_channels);
        let dy = r.vec(s.batch * s.out_channels * s.out_height() * s.out_width());
        out.push(conv2d(&x, &w, Some(&b), &s));
        out.push(conv2d_backward_input(&dy, &w, &s));
        out.push(conv2d_backward_weight(&x, &dy, &s));
        out.push(conv2d_backward_bias(&dy, &s));
        out.extend(half_residual_block(&mut r, &s));
        out.extend(half_residual_block(&mut r, &ConvShape { batch: 9, ..s }));
    }
    for (m, k, n) in [(300, 320, 200), (3000, 64, 100), (20, 700, 500)] {
        let (x, w, b, dy) = (r.vec(m * k), r.vec(n * k), r.vec(n), r.vec(m * n));
        out.push(linear(&x, &w, Some(&b), m, k, n));
        out.push(linear_backward_input(&dy, &w, m, k, n));
        out.push(linear_backward_weight(&x, &dy, m, k, n));
        out.push(linear_backward_bias(&dy, m, n));
    }
    for (batch, heads, queries, keys, head_dim) in [(8, 2, 64, 32, 32), (1, 2, 600, 300, 40)] {
        let s = AttentionShape { batch, heads, queries, keys, head_dim };
        let (lq, lk) = (batch * queries * heads * head_dim, batch * keys * heads * head_dim);
        let (q, k, v, d) = (r.vec(lq), r.vec(lk), r.vec(lk), r.vec(lq));
        let (o, lse) = attention(&q, &k, &v, &s, 0.2, false);
        let (dq, dk, dv) = attention_backward(&q, &k, &v, &o, &lse, &d, &s, 0.2, false);
        out.extend([o, lse, dq, dk, dv]);
    }
    let (n, c, hw) = (6, 32, 1024);
    let (x, dy, w, b) = (r.vec(n * c * hw), r.vec(n * c * hw), r.vec(c), r.vec(c));
    let (y, mean, rstd) = group_norm(&x, &w, &b, n, c, hw, 8, 1e-5, true);
    let (dx, dw, db) = group_norm_backward(&x, &dy, &w, &b, &mean, &rstd, n, c, hw, 8, true);
    out.extend([y, mean, rstd, dx, dw, db]);
    let (w, b) = (r.vec(64), r.vec(64));
    let (y, mean, rstd) = layer_norm(&x, &w, &b, x.len() / 64, 64, 1e-5);
    let (dx, dw, db) = layer_norm_backward(&x, &dy, &w, &mean, &rstd, x.len() / 64, 64);
    out.extend([
        y,
        dx,
        dw,
        db,
        gelu(&x),
        gelu_backward(&x, &dy),
        silu(&x),
        geglu(&x, x.len() / 64, 32),
    ]);
    let half = &dy[..dy.len() / 2];
    out.extend([
        geglu_backward(&x, half, x.len() / 64, 32),
        add(&x, &dy),
        transpose(&x, n, c, hw),
        add_channel_backward(&x, n, c, hw),
    ]);
    out.push(vec![sum_squares(&x) as f32]);
    out.iter().map(|v| bits(v)).collect()
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(everything)
    };
    let one = run(1);
    assert!(one == run(2), "two threads differ from one");
    assert!(one == run(3), "three threads differ from one");
    assert!(one == everything(), "helpers beside a plain thread differ from one thread");
}

#[test]
fn the_batch_size_does_not_matter() {
    let mut r = Rng(12);
    for s in conv_shapes() {
        let five = ConvShape { batch: 11, ..s };
        let one = ConvShape { batch: 1, ..s };
        let (lx, ly) =
            (s.in_channels * s.height * s.width, s.out_channels * s.out_height() * s.out_width());
        let (x, dy) = (r.vec(11 * lx), r.vec(11 * ly));
        let w = r.vec(s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1]);
        let y = conv2d(&x, &w, None, &five);
        let dx = conv2d_backward_input(&dy, &w, &five);
        for i in [0, 4, 10] {
            assert_eq!(
                bits(&conv2d(&x[i * lx..(i + 1) * lx], &w, None, &one)),
                bits(&y[i * ly..(i + 1) * ly]),
                "{s:?}"
            );
            let g = conv2d_backward_input(&dy[i * ly..(i + 1) * ly], &w, &one);
            assert_eq!(bits(&g), bits(&dx[i * lx..(i + 1) * lx]), "{s:?}");
        }
        if !fuses_norm_conv(&five) {
            continue;
        }
        let (weight, bias) = (r.vec(s.in_channels), r.vec(s.out_channels));
        let groups = if s.in_channels.is_multiple_of(4) { 4 } else { 1 };
        let norm = GroupNormSilu { weight: &weight, bias: &weight, groups, eps: 1e-5 };
        let of = |x, added, dy, s| {
            let p = NormConv { x, norm, w: &w, bias: &bias, added: Added::Image(added) };
            let (y, stats) = norm_conv(&p, s);
            let g = norm_conv_backward(&p, &stats, dy, s, false);
            [y, stats, g.x, g.channels]
        };
        let all = of(&x, &dy, &dy, &five);
        for i in [0, 4, 10] {
            let (x, dy) = (&x[i * lx..(i + 1) * lx], &dy[i * ly..(i + 1) * ly]);
            for (one, all) in of(x, dy, dy, &one).iter().zip(&all) {
                assert_eq!(bits(one), bits(&all[i * one.len()..(i + 1) * one.len()]), "{s:?}");
            }
        }
    }
    {
        let (b, queries, width, d) = (12, 50, 48, 96);
        let (x, w1, w2) = (r.vec(b * queries * width), r.vec(2 * d * width), r.vec(width * d));
        let (b1, b2, weight) = (r.vec(2 * d), r.vec(width), r.vec(width));
        let [wq, wk, wv, wo] = [(); 4].map(|()| r.vec(width * width));
        let norm = Norm { weight: &weight, bias: &b2, eps: 1e-5 };
        let of = |x: &[f32]| {
            let m = x.len() / width;
            let f = FeedForward { x, norm, w1: &w1, b1: &b1, w2: &w2, b2: &b2 };
            let attention = AttentionShape {
                batch: m / queries,
                heads: 2,
                queries,
                keys: queries,
                head_dim: width / 2,
            };
            let shape = FusedAttentionShape { attention, width, context_width: width };
            let (wq, wk, wv, wo) = (&wq, &wk, &wv, &wo);
            let p = FusedAttention { x, norm, context: None, wq, wk, wv, wo, bo: &b2 };
            [feed_forward(&f, [m, width, d], false).0, fused_attention(&p, &shape, false).0]
        };
        let (all, each) = (of(&x), queries * width);
        for i in [0, 5, 11] {
            for (one, all) in of(&x[i * each..][..each]).iter().zip(&all) {
                assert_eq!(bits(one), bits(&all[i * each..][..each]), "parts of a transformer");
            }
        }
    }
    // Few rows take the panels of the weight one by one, many all of them at once.
    for (m, k, n) in [(301, 64, 33), (301, 700, 100), (301, 37, 257), (601, 300, 130)] {
        let (x, w, dy) = (r.vec(m * k), r.vec(n * k), r.vec(m * n));
        let y = linear(&x, &w, None, m, k, n);
        let dx = linear_backward_input(&dy, &w, m, k, n);
        for i in [0, 7, 95, m - 1] {
            assert_eq!(
                bits(&linear(&x[i * k..(i + 1) * k], &w, None, 1, k, n)),
                bits(&y[i * n..(i + 1) * n])
            );
            assert_eq!(
                bits(&linear_backward_input(&dy[i * n..(i + 1) * n], &w, 1, k, n)),
                bits(&dx[i * k..(i + 1) * k])
            );
        }
    }
    let five = AttentionShape { batch: 5, heads: 2, queries: 300, keys: 150, head_dim: 24 };
    let one = AttentionShape { batch: 1, ..five };
    let (lq, lk) = (300 * 48, 150 * 48);
    let (q, k, v, d) = (r.vec(5 * lq), r.vec(5 * lk), r.vec(5 * lk), r.vec(5 * lq));
    let (o, lse) = attention(&q, &k, &v, &five, 0.3, false);
    let (dq, dk, dv) = attention_backward(&q, &k, &v, &o, &lse, &d, &five, 0.3, false);
    let (aq, ak) = (3 * lq..4 * lq, 3 * lk..4 * lk);
    let (o1, lse1) = attention(&q[aq.clone()], &k[ak.clone()], &v[ak.clone()], &one, 0.3, false);
    let g = attention_backward(
        &q[aq.clone()],
        &k[ak.clone()],
        &v[ak.clone()],
        &o1,
        &lse1,
        &d[aq.clone()],
        &one,
        0.3,
        false,
    );
    assert_eq!(bits(&o1), bits(&o[aq.clone()]));
    assert_eq!(bits(&lse1), bits(&lse[3 * 600..4 * 600]));
    assert_eq!(bits(&g.0), bits(&dq[aq]));
    assert_eq!(bits(&g.1), bits(&dk[ak.clone()]));
    assert_eq!(bits(&g.2), bits(&dv[ak]));
}
