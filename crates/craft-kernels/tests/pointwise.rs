//! Norms, activations, layout and the optimiser against the definitions.
mod common;
use common::{Rng, close, group_norm as reference, wide};
use craft_kernels::*;

#[test]
fn norms_match_the_definition() {
    let mut r = Rng(4);
    for (n, c, hw, groups) in [
        (1, 4, 3, 2),
        (3, 6, 35, 3),
        (2, 32, 64, 8),
        (2, 32, 16, 32),
        (1, 64, 256, 1),
        (1, 8, 1500, 4),
    ] {
        let (mut x, dy, w, b) = (r.vec(n * c * hw), r.vec(n * c * hw), r.vec(c), r.vec(c));
        x.iter_mut().for_each(|v| *v = *v * 2.0 + 3.0);
        for silu in [false, true] {
            let what = format!("{n} {c} {hw} {groups} {silu}");
            let [y, dx, dw, db] = reference(&x, &dy, &w, &b, n, c, hw, groups, 1e-5, silu);
            let (gy, mean, rstd) = group_norm(&x, &w, &b, n, c, hw, groups, 1e-5, silu);
            let (gx, gw, gb) =
                group_norm_backward(&x, &dy, &w, &b, &mean, &rstd, n, c, hw, groups, silu);
            close(&gy, &y, 1e-5, &what);
            close(&gx, &dx, 1e-5, &what);
            close(&gw, &dw, 1e-5, &what);
            close(&gb, &db, 1e-5, &what);
        }
    }
    for (m, d) in [(1, 5), (7, 32), (130, 77), (65, 320)] {
        let (x, dy, w, b) = (r.vec(m * d), r.vec(m * d), r.vec(d), r.vec(d));
        // A row is an image whose only group holds d channels of one position.
        let [y, dx, dw, db] = reference(&x, &dy, &w, &b, m, d, 1, 1, 1e-5, false);
        let (gy, mean, rstd) = layer_norm(&x, &w, &b, m, d, 1e-5);
        let (gx, gw, gb) = layer_norm_backward(&x, &dy, &w, &mean, &rstd, m, d);
        close(&gy, &y, 1e-5, "y");
        close(&gx, &dx, 1e-5, "dx");
        close(&gw, &dw, 1e-5, "dw");
        close(&gb, &db, 1e-5, "db");
    }
}

#[test]
fn statistics_survive_a_large_mean() {
    let x: Vec<f32> = (0..4096).map(|i| 10_000.0 + (i % 7) as f32).collect();
    let (_, mean, rstd) = group_norm(&x, &[1.0], &[0.0], 1, 1, 4096, 1, 0.0, false);
    let x64 = wide(&x);
    let m = x64.iter().sum::<f64>() / 4096.0;
    let v = x64.iter().map(|x| (x - m).powi(2)).sum::<f64>() / 4096.0;
    assert!((f64::from(mean[0]) / m - 1.0).abs() < 1e-6);
    assert!((f64::from(rstd[0]) * v.sqrt() - 1.0).abs() < 1e-5);
}

/// Error function by its Taylor series (|x| < 3) or continued fraction.
fn erf(x: f64) -> f64 {
    if x.abs() < 3.0 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut f = 0.0;
    for n in (1..100).rev() {
        f = f64::from(n) / 2.0 / (x.abs() + f);
    }
    x.signum() * (1.0 - (-x * x).exp() / std::f64::consts::PI.sqrt() / (x.abs() + f))
}

fn cdf(x: f64) -> f64 {
    0.5 * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}
fn pdf(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[test]
fn activations_match_the_definitions() {
    let x: Vec<f32> = (-12_000..=12_003).map(|i| i as f32 * 1e-3).collect();
    let dy: Vec<f32> = x.iter().map(|v| (v * 3.1).sin()).collect();
    let each = |got: &[f32], f: &dyn Fn(f64, f64) -> f64, what: &str| {
        for ((&g, &x), &d) in got.iter().zip(&x).zip(&dy) {
            let want = f(f64::from(x), f64::from(d));
            let error = (f64::from(g) - want).abs();
            assert!(
                error < 3e-7 * (1.0 + want.abs()),
                "{what} at {x}: {g}, expected {want}, error {error:.2e}"
            );
        }
    };
    let sig = |v: f64| 1.0 / (1.0 + (-v).exp());
    each(&gelu(&x), &|x, _| x * cdf(x), "gelu");
    each(&gelu_backward(&x, &dy), &|x, d| d * (cdf(x) + x * pdf(x)), "gelu backward");
    each(&silu(&x), &|x, _| x * sig(x), "silu");
    each(&silu_backward(&x, &dy), &|x, d| d * sig(x) * (1.0 + x * (1.0 - sig(x))), "silu backward");
    let a = f64::from(1.702f32);
    each(&quick_gelu(&x), &|x, _| x * sig(a * x), "quick gelu");
    each(
        &quick_gelu_backward(&x, &dy),
        &|x, d| d * sig(a * x) * (1.0 + a * x * (1.0 - sig(a * x))),
        "quick gelu backward",
    );
}

#[test]
fn activations_keep_their_limits() {
    let x = [f32::NAN, 1e30, -1e30, 100.0, -100.0, 0.0, f32::MAX];
    for f in [gelu as fn(&[f32]) -> Vec<f32>, silu, quick_gelu] {
        let y = f(&x);
        assert!(y[0].is_nan());
        assert_eq!(&y[1..], &[1e30, 0.0, 100.0, 0.0, 0.0, f32::MAX].map(|v: f32| v), "{y:?}");
    }
}

#[test]
fn geglu_matches_the_definition() {
    let mut r = Rng(5);
    let (m, d) = (9, 37);
    let (x, dy) = (r.vec(m * 2 * d), r.vec(m * d));
    let (mut y, mut dx) = (vec![0.0; m * d], vec![0.0; m * 2 * d]);
    for i in 0..m {
        for j in 0..d {
            let (a, g) = (f64::from(x[i * 2 * d + j]), f64::from(x[i * 2 * d + d + j]));
            let t = f64::from(dy[i * d + j]);
            y[i * d + j] = a * g * cdf(g);
            dx[i * 2 * d + j] = t * g * cdf(g);
            dx[i * 2 * d + d + j] = t * a * (cdf(g) + g * pdf(g));
        }
    }
    close(&geglu(&x, m, d), &y, 1e-6, "y");
    close(&geglu_backward(&x, &dy, m, d), &dx, 1e-6, "dx");
}

#[test]
fn layout_operations_match_the_definitions() {
    let mut r = Rng(6);
    for (b, rows, cols) in [(1, 1, 1), (2, 5, 7), (3, 64, 320), (1, 130, 33), (2, 16, 16)] {
        let x = r.vec(b * rows * cols);
        let y = transpose(&x, b, rows, cols);
        for i in 0..b {
            for j in 0..rows {
                for k in 0..cols {
                    assert_eq!(y[(i * cols + k) * rows + j], x[(i * rows + j) * cols + k]);
                }
            }
        }
    }
    let (p, h, w) = (3, 5, 4);
    let x = r.vec(p * h * w);
    let y = upsample_nearest2x(&x, p, h, w);
    let dy = r.vec(4 * p * h * w);
    let dx = upsample_nearest2x_backward(&dy, p, h, w);
    let mut want = vec![0.0; x.len()];
    for i in 0..p {
        for j in 0..2 * h {
            for k in 0..2 * w {
                let at = (i * 2 * h + j) * 2 * w + k;
                let from = (i * h + j / 2) * w + k / 2;
                assert_eq!(y[at], x[from]);
                want[from] += f64::from(dy[at]);
            }
        }
    }
    close(&dx, &want, 1e-6, "upsample");
    let (n, c, hw) = (2, 3, 35);
    let (x, t) = (r.vec(n * c * hw), r.vec(n * c));
    let y = add_channel(&x, &t, n, c, hw);
    assert!((0..x.len()).all(|i| y[i] == x[i] + t[i / hw]));
    let want: Vec<f64> = x.chunks(hw).map(|v| wide(v).iter().sum()).collect();
    close(&add_channel_backward(&x, n, c, hw), &want, 1e-6, "add_channel");
    let z = add(&x, &y);
    assert!((0..x.len()).all(|i| z[i] == x[i] + y[i]));
    let a = r.vec(n * 2 * hw);
    let joined = concat_channels(&[(&x, c), (&a, 2)], n, hw);
    assert_eq!(joined[c * hw..(c + 2) * hw], a[..2 * hw]);
    assert_eq!(split_channels(&joined, &[c, 2], n, hw), [x, a]);
}

#[test]
fn adamw_matches_the_definition() {
    let mut r = Rng(7);
    let n = 1003;
    let (mut p, g) = (r.vec(n), r.vec(n));
    let (mut m, mut v) = (r.vec(n), r.vec(n).iter().map(|x| x.abs()).collect::<Vec<_>>());
    let h = AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.1,
        bias_correction2: 0.001,
        grad_scale: 0.5,
    };
    let (p0, m0, v0) = (wide(&p), wide(&m), wide(&v));
    adamw_step(&mut p, &g, &mut m, &mut v, &h);
    let mut want = [vec![], vec![], vec![]];
    for i in 0..n {
        let g = f64::from(g[i]) * 0.5;
        let m = 0.9 * m0[i] + 0.1 * g;
        let v = 0.999 * v0[i] + 0.001 * g * g;
        want[0].push(p0[i] * (1.0 - 1e-3) - 1e-2 / 0.1 * m / ((v / 0.001).sqrt() + 1e-8));
        want[1].push(m);
        want[2].push(v);
    }
    close(&p, &want[0], 1e-6, "param");
    close(&m, &want[1], 1e-6, "m");
    close(&v, &want[2], 1e-6, "v");
    let x = r.vec(200_001);
    let want: f64 = wide(&x).iter().map(|v| v * v).sum();
    assert!((sum_squares(&x) / want - 1.0).abs() < 1e-6);
}
