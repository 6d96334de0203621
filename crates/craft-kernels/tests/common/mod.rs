//! Random inputs, comparison, and naive reference formulas in `f64`.
#![allow(dead_code, unreachable_pub)]

pub mod narrow;

use craft_kernels::*;

/// Small deterministic generator (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Uniform in [-1, 1).
    pub fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
    pub fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.value()).collect()
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Largest error relative to the largest value of the reference.
#[track_caller]
pub fn close(got: &[f32], want: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let top = want.iter().fold(1e-3f64, |m, v| m.max(v.abs()));
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(g) - w).abs() / top;
        assert!(
            error <= tolerance,
            "{what}: element {i} is {g}, expected {w} (relative error {error:.2e})"
        );
    }
}

pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// y, dx, dw, db of a convolution.
pub fn conv(x: &[f32], w: &[f32], b: &[f32], dy: &[f32], s: &ConvShape) -> [Vec<f64>; 4] {
    let (ho, wo) = (s.out_height(), s.out_width());
    let [kh, kw] = s.kernel;
    let mut y = vec![0.0; s.batch * s.out_channels * ho * wo];
    let (mut dx, mut dw, mut db) =
        (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; s.out_channels]);
    for n in 0..s.batch {
        for o in 0..s.out_channels {
            for oy in 0..ho {
                for ox in 0..wo {
                    let at = ((n * s.out_channels + o) * ho + oy) * wo + ox;
                    let g = f64::from(dy[at]);
                    y[at] += f64::from(b[o]);
                    db[o] += g;
                    for c in 0..s.in_channels {
                        for i in 0..kh {
                            for j in 0..kw {
                                let iy = (oy * s.stride[0] + i).wrapping_sub(s.padding[0]);
                                let ix = (ox * s.stride[1] + j).wrapping_sub(s.padding[2]);
                                if iy < s.height && ix < s.width {
                                    let xi =
                                        ((n * s.in_channels + c) * s.height + iy) * s.width + ix;
                                    let wi = ((o * s.in_channels + c) * kh + i) * kw + j;
                                    y[at] += f64::from(x[xi]) * f64::from(w[wi]);
                                    dx[xi] += g * f64::from(w[wi]);
                                    dw[wi] += g * f64::from(x[xi]);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    [y, dx, dw, db]
}

pub fn matmul(a: &[f64], b: &[f64], m: usize, k: usize, n: usize) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            for j in 0..n {
                c[i * n + j] += a[i * k + p] * b[p * n + j];
            }
        }
    }
    c
}

pub fn turn(x: &[f64], r: usize, c: usize) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for i in 0..r {
        for j in 0..c {
            y[j * r + i] = x[i * c + j];
        }
    }
    y
}

/// Shapes of attention: odd lengths and widths, more and fewer keys than queries, several tiles.
pub fn attention_shapes() -> Vec<AttentionShape> {
    let all = [
        (1, 1, 1, 1, 1),
        (1, 1, 2, 3, 8),
        (2, 4, 64, 64, 16),
        (2, 2, 64, 32, 32),
        (2, 3, 33, 77, 40),
        (1, 8, 300, 300, 20),
        (3, 1, 16, 129, 64),
        (1, 2, 45, 45, 7),
        (1, 1, 300, 260, 160),
    ];
    let shape = |(batch, heads, queries, keys, head_dim)| AttentionShape {
        batch,
        heads,
        queries,
        keys,
        head_dim,
    };
    all.map(shape).into()
}

/// out, lse, dq, dk, dv of attention.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    dout: &[f32],
    s: &AttentionShape,
    scale: f32,
    causal: bool,
) -> [Vec<f64>; 5] {
    let ld = s.heads * s.head_dim;
    let scale = f64::from(scale);
    let mut r = [
        vec![0.0; q.len()],
        vec![0.0; s.batch * s.heads * s.queries],
        vec![0.0; q.len()],
        vec![0.0; k.len()],
        vec![0.0; k.len()],
    ];
    for b in 0..s.batch {
        for h in 0..s.heads {
            for i in 0..s.queries {
                let qi = (b * s.queries + i) * ld + h * s.head_dim;
                let kj = |j: usize| (b * s.keys + j) * ld + h * s.head_dim;
                let dot = |x: &[f32], a: usize, y: &[f32], c: usize| -> f64 {
                    (0..s.head_dim).map(|d| f64::from(x[a + d]) * f64::from(y[c + d])).sum()
                };
                let n = if causal { (i + 1).min(s.keys) } else { s.keys };
                let scores: Vec<f64> = (0..n).map(|j| scale * dot(q, qi, k, kj(j))).collect();
                let top = scores.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v));
                let total: f64 = scores.iter().map(|v| (v - top).exp()).sum();
                r[1][(b * s.heads + h) * s.queries + i] = top + total.ln();
                let p: Vec<f64> = scores.iter().map(|v| (v - top).exp() / total).collect();
                let dp: Vec<f64> = (0..n).map(|j| dot(dout, qi, v, kj(j))).collect();
                let mean: f64 = p.iter().zip(&dp).map(|(a, b)| a * b).sum();
                for j in 0..n {
                    let ds = p[j] * (dp[j] - mean) * scale;
                    for d in 0..s.head_dim {
                        r[0][qi + d] += p[j] * f64::from(v[kj(j) + d]);
                        r[2][qi + d] += ds * f64::from(k[kj(j) + d]);
                        r[3][kj(j) + d] += ds * f64::from(q[qi + d]);
                        r[4][kj(j) + d] += p[j] * f64::from(dout[qi + d]);
                    }
                }
            }
        }
    }
    r
}

/// y, dx, dweight, dbias of a normalisation over `groups` of `each` channels of `hw` positions.
#[allow(clippy::too_many_arguments)]
pub fn group_norm(
    x: &[f32],
    dy: &[f32],
    w: &[f32],
    b: &[f32],
    n: usize,
    c: usize,
    hw: usize,
    groups: usize,
    eps: f64,
    silu: bool,
) -> [Vec<f64>; 4] {
    let size = c / groups * hw;
    let mut r = [vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; c], vec![0.0; c]];
    for g in 0..n * groups {
        let at = g * size;
        let group = wide(&x[at..at + size]);
        let mean = group.iter().sum::<f64>() / size as f64;
        let var = group.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / size as f64;
        let rstd = 1.0 / (var + eps).sqrt();
        let (mut sum, mut dot) = (0.0, 0.0);
        let mut slopes = vec![];
        for i in 0..size {
            let ch = (at + i) / hw % c;
            let xhat = (group[i] - mean) * rstd;
            let v = xhat * f64::from(w[ch]) + f64::from(b[ch]);
            let sig = 1.0 / (1.0 + (-v).exp());
            r[0][at + i] = if silu { v * sig } else { v };
            let d = f64::from(dy[at + i]) * if silu { sig * (1.0 + v * (1.0 - sig)) } else { 1.0 };
            r[2][ch] += d * xhat;
            r[3][ch] += d;
            let t = d * f64::from(w[ch]);
            sum += t;
            dot += t * xhat;
            slopes.push((t, xhat));
        }
        for (i, (t, xhat)) in slopes.into_iter().enumerate() {
            r[1][at + i] = rstd * (t - (sum + xhat * dot) / size as f64);
        }
    }
    r
}

/// Convolution shapes: odd sizes, blocks with tails, strides, asymmetric padding, 1x1, patches.
pub fn conv_shapes() -> Vec<ConvShape> {
    let s = |batch, in_channels, out_channels, height, width, kernel, stride, padding| ConvShape {
        batch,
        in_channels,
        out_channels,
        height,
        width,
        kernel,
        stride,
        padding,
    };
    vec![
        s(1, 3, 5, 7, 9, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(2, 4, 32, 8, 8, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(3, 32, 4, 16, 16, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(9, 33, 17, 4, 4, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(1, 70, 66, 5, 11, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(2, 16, 24, 8, 8, [3, 3], [2, 2], [1, 1, 1, 1]),
        s(2, 7, 9, 9, 7, [3, 3], [2, 2], [0, 1, 0, 1]),
        s(2, 8, 8, 16, 16, [3, 3], [2, 2], [0, 1, 0, 1]),
        s(2, 40, 19, 6, 5, [1, 1], [1, 1], [0, 0, 0, 0]),
        s(1, 300, 20, 8, 8, [1, 1], [1, 1], [0, 0, 0, 0]),
        s(2, 5, 6, 8, 8, [1, 1], [2, 2], [0, 0, 0, 0]),
        s(2, 3, 12, 16, 16, [4, 4], [4, 4], [0, 0, 0, 0]),
        s(1, 2, 3, 9, 9, [5, 3], [3, 2], [2, 0, 1, 2]),
        s(1, 2, 3, 6, 6, [2, 2], [1, 1], [0, 1, 0, 1]),
        s(1, 3, 2, 5, 5, [3, 3], [1, 1], [0, 0, 0, 0]),
        s(1, 2, 2, 3, 2, [7, 7], [1, 1], [3, 3, 3, 3]),
        s(1, 2, 2, 3, 3, [1, 1], [1, 1], [2, 1, 1, 2]),
        s(1, 6, 6, 64, 64, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(3, 2, 3, 48, 40, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(1, 16, 16, 4, 4, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(2, 32, 48, 16, 16, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(1, 17, 35, 13, 6, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(2, 20, 16, 9, 10, [3, 3], [1, 1], [0, 2, 1, 0]),
        s(1, 16, 20, 7, 6, [3, 3], [1, 1], [0, 0, 0, 0]),
        s(5, 18, 16, 48, 40, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(2, 65, 40, 12, 12, [3, 3], [1, 1], [1, 1, 1, 1]),
        s(1, 340, 330, 8, 9, [3, 3], [1, 1], [1, 1, 1, 1]),
    ]
}

/// Whatever half a residual block computes in the shape of a convolution, if it is fused.
pub fn half_residual_block(r: &mut Rng, s: &ConvShape) -> Vec<Vec<f32>> {
    let (ci, co) = (s.in_channels, s.out_channels);
    let x = r.vec(s.batch * ci * s.height * s.width);
    let dy = r.vec(s.batch * co * s.out_height() * s.out_width());
    let w = r.vec(co * ci * s.kernel[0] * s.kernel[1]);
    let (bias, weight, shift) = (r.vec(co), r.vec(ci), r.vec(ci));
    if !fuses_norm_conv(s) {
        return vec![];
    }
    let groups = if ci.is_multiple_of(4) { 4 } else { 1 };
    let norm = GroupNormSilu { weight: &weight, bias: &shift, groups, eps: 1e-5 };
    let p = NormConv { x: &x, norm, w: &w, bias: &bias, added: Added::Image(&dy) };
    let (y, stats) = norm_conv(&p, s);
    let g = norm_conv_backward(&p, &stats, &dy, s, true);
    let [dweight, dshift] = g.norm;
    vec![y, stats, g.x, dweight, dshift, g.w.unwrap_or_default(), g.bias, g.channels]
}
