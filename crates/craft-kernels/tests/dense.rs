//! Linear layers, matmuls and attention against the definitions.
mod common;
use common::{Rng, attention as reference, attention_shapes, close, matmul as naive, turn, wide};
use craft_kernels::*;

#[test]
fn linear_matches_the_definition() {
    let mut r = Rng(2);
    let shapes = [
        (1, 1, 1),
        (1, 17, 5),
        (5, 33, 70),
        (64, 64, 64),
        (130, 300, 49),
        (40, 700, 100),
        (33, 8, 1),
        (200, 31, 257),
        (7, 513, 96),
        (9000, 5, 3),
    ];
    for (m, k, n) in shapes {
        let (x, w, b, dy) = (r.vec(m * k), r.vec(n * k), r.vec(n), r.vec(m * n));
        let (x64, w64, dy64) = (wide(&x), wide(&w), wide(&dy));
        let what = format!("{m} {k} {n}");
        let plain = naive(&x64, &turn(&w64, n, k), m, k, n);
        let mut y = plain.clone();
        for (i, v) in y.iter_mut().enumerate() {
            *v += f64::from(b[i % n]);
        }
        close(&linear(&x, &w, None, m, k, n), &plain, 1e-5, &what);
        close(&linear(&x, &w, Some(&b), m, k, n), &y, 1e-5, &what);
        close(&linear_backward_input(&dy, &w, m, k, n), &naive(&dy64, &w64, m, n, k), 1e-5, &what);
        close(
            &linear_backward_weight(&x, &dy, m, k, n),
            &naive(&turn(&dy64, m, n), &x64, n, m, k),
            1e-5,
            &what,
        );
        close(&linear_backward_bias(&dy, m, n), &naive(&vec![1.0; m], &dy64, 1, m, n), 1e-5, &what);
        let b = r.vec(k * n);
        close(&matmul(&x, &b, m, k, n), &naive(&x64, &wide(&b), m, k, n), 1e-5, &what);
    }
}

#[test]
fn attention_matches_the_definition() {
    let mut r = Rng(3);
    for s in attention_shapes() {
        let AttentionShape { batch, heads, queries, keys, head_dim } = s;
        let (lq, lk) = (batch * queries * heads * head_dim, batch * keys * heads * head_dim);
        let (mut q, k, v, dout) = (r.vec(lq), r.vec(lk), r.vec(lk), r.vec(lq));
        q.iter_mut().for_each(|v| *v *= 3.0);
        let scale = 1.0 / (head_dim as f32).sqrt();
        for causal in [false, true] {
            let want = reference(&q, &k, &v, &dout, &s, scale, causal);
            let (out, lse) = attention(&q, &k, &v, &s, scale, causal);
            let (dq, dk, dv) = attention_backward(&q, &k, &v, &out, &lse, &dout, &s, scale, causal);
            for (got, (want, name)) in
                [out, lse, dq, dk, dv].iter().zip(want.iter().zip(["out", "lse", "dq", "dk", "dv"]))
            {
                close(got, want, 1e-5, &format!("{name} {s:?} {causal}"));
            }
        }
    }
}

#[test]
fn attention_survives_large_scores() {
    let s = AttentionShape { batch: 1, heads: 1, queries: 2, keys: 200, head_dim: 4 };
    let q = vec![100.0; 8];
    let k: Vec<f32> = (0..800).map(|i| (i / 4) as f32).collect();
    let v = k.clone();
    let (out, lse) = attention(&q, &k, &v, &s, 1.0, false);
    assert!(out.iter().all(|&v| (v - 199.0).abs() < 1e-3));
    assert!(lse.iter().all(|&v| (v - 79600.0).abs() < 1.0));
}
