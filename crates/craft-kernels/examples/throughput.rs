//! Prints the speed of every hot operation, in f32 and, where the CPU has it, in bf16:
//! `cargo run --release -p craft-kernels --example throughput [avx2|portable]`, on that instruction
//! set if one is named.
#![allow(clippy::print_stdout)]

use craft_kernels::*;
use std::hint::black_box;
use std::time::Instant;

/// Best seconds of several runs.
fn best<R>(mut f: impl FnMut() -> R) -> f64 {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 5 || (start.elapsed().as_secs_f64() < 0.4 && runs < 400) {
        let t = Instant::now();
        black_box(f());
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn data(n: usize, seed: u32) -> Vec<f32> {
    let mut x = seed.wrapping_mul(747_796_405).wrapping_add(1);
    (0..n)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Multiply-adds in registers on every thread at once, GFLOP/s.
fn peak() -> f64 {
    let probe = || multiply_add_probe(32 * rayon::current_num_threads(), 40_000);
    probe() as f64 / best(probe) / 1e9
}

fn main() {
    let level = match std::env::args().nth(1).as_deref() {
        Some("avx2") => Some(SimdLevel::Avx2),
        Some("portable") => Some(SimdLevel::Portable),
        Some(other) => panic!("{other}: expected avx2 or portable"),
        None => None,
    };
    assert!(set_simd_level(level), "this processor does not have these instructions");
    let full = peak();
    println!(
        "{:?}, {} threads; peak of multiply-adds: {full:.0} GFLOP/s",
        simd_level(),
        rayon::current_num_threads()
    );
    if simd_level() == SimdLevel::Avx512 && set_precision(Precision::Bf16) {
        println!("in bf16: {:.0} GFLOP/s", peak());
        set_precision(Precision::F32);
    }
    println!();
    // The products in f32, and after it the seconds and the gain in bf16.
    let product = |name: &str, flops: f64, f: &dyn Fn() -> Vec<f32>| {
        let seconds = best(f);
        let rate = flops / seconds / 1e9;
        print!(
            "{name:<44} {:9.1} us {rate:8.1} GFLOP/s {:5.0} %",
            seconds * 1e6,
            100.0 * rate / full
        );
        if simd_level() == SimdLevel::Avx512 && set_precision(Precision::Bf16) {
            let narrow = best(f);
            set_precision(Precision::F32);
            print!("   bf16 {:9.1} us {:5.2} x", narrow * 1e6, seconds / narrow);
        }
        println!();
    };
    let conv = |batch, ci, co, size: usize, k: usize, stride: usize| {
        let p = k / 2;
        let s = ConvShape {
            batch,
            in_channels: ci,
            out_channels: co,
            height: size,
            width: size,
            kernel: [k; 2],
            stride: [stride; 2],
            padding: [p; 4],
        };
        let x = data(batch * ci * size * size, 1);
        let w = data(co * ci * k * k, 2);
        let b = data(co, 3);
        let y = batch * co * s.out_height() * s.out_width();
        let dy = data(y, 4);
        let flops = (2 * y * ci * k * k) as f64;
        let name = format!("conv {k}x{k}/{stride} N={batch} {ci}->{co} {size}x{size}");
        product(&name, flops, &|| conv2d(&x, &w, Some(&b), &s));
        product("    input gradient", flops, &|| conv2d_backward_input(&dy, &w, &s));
        product("    weight gradient", flops, &|| conv2d_backward_weight(&x, &dy, &s));
        if s.winograd() {
            set_winograd(false);
            product("  direct", flops, &|| conv2d(&x, &w, Some(&b), &s));
            product("    input gradient", flops, &|| conv2d_backward_input(&dy, &w, &s));
            product("    weight gradient", flops, &|| conv2d_backward_weight(&x, &dy, &s));
            set_winograd(true);
        }
    };
    conv(32, 64, 64, 8, 3, 1);
    conv(32, 32, 32, 16, 3, 1);
    conv(32, 128, 128, 4, 3, 1);
    conv(8, 32, 32, 64, 3, 1);
    conv(4, 320, 320, 32, 3, 1);
    conv(32, 64, 64, 8, 1, 1);
    conv(4, 320, 320, 32, 1, 1);
    conv(32, 32, 32, 16, 3, 2);
    conv(32, 4, 32, 16, 3, 1);
    conv(32, 32, 4, 16, 3, 1);
    for (m, k, n) in [
        (4096, 320, 1280),
        (256, 1280, 5120),
        (77, 768, 640),
        (8192, 64, 256),
        (2048, 64, 64),
        (32, 64, 256),
        (1024, 32, 32),
    ] {
        let (x, w, dy) = (data(m * k, 1), data(n * k, 2), data(m * n, 3));
        let flops = (2 * m * k * n) as f64;
        product(&format!("linear {m}x{k}x{n}"), flops, &|| linear(&x, &w, None, m, k, n));
        product("    input gradient", flops, &|| linear_backward_input(&dy, &w, m, k, n));
        product("    weight gradient", flops, &|| linear_backward_weight(&x, &dy, m, k, n));
    }
    for (batch, heads, queries, keys, head_dim) in
        [(32, 4, 64, 32, 16), (32, 4, 64, 64, 16), (4, 8, 1024, 1024, 40)]
    {
        let s = AttentionShape { batch, heads, queries, keys, head_dim };
        let (lq, lk) = (batch * queries * heads * head_dim, batch * keys * heads * head_dim);
        let (q, k, v, d) = (data(lq, 1), data(lk, 2), data(lk, 3), data(lq, 4));
        let flops = (4 * lq * keys) as f64;
        let name = format!("attention N={batch} h={heads} {queries}x{keys} d={head_dim}");
        product(&name, flops, &|| attention(&q, &k, &v, &s, 0.2, false).0);
        let (o, lse) = attention(&q, &k, &v, &s, 0.2, false);
        product("    gradients", 2.5 * flops, &|| {
            attention_backward(&q, &k, &v, &o, &lse, &d, &s, 0.2, false).0
        });
    }
    println!();
    let bytes = |name: &str, values: usize, seconds: f64| {
        println!(
            "{name:<44} {:9.1} us {:8.2} Gvalue/s",
            seconds * 1e6,
            values as f64 / seconds / 1e9
        );
    };
    let (n, c, hw) = (32, 64, 64);
    let len = n * c * hw;
    let (x, dy, w, b) = (data(len, 1), data(len, 2), data(c, 3), data(c, 4));
    bytes(
        "group norm + silu N=32 64x8x8 G=8",
        len,
        best(|| group_norm(&x, &w, &b, n, c, hw, 8, 1e-5, true)),
    );
    let (_, mean, rstd) = group_norm(&x, &w, &b, n, c, hw, 8, 1e-5, true);
    bytes(
        "    gradients",
        len,
        best(|| group_norm_backward(&x, &dy, &w, &b, &mean, &rstd, n, c, hw, 8, true)),
    );
    bytes("layer norm 2048x64", len, best(|| layer_norm(&x, &w, &b, 2048, 64, 1e-5)));
    let (_, mean, rstd) = layer_norm(&x, &w, &b, 2048, 64, 1e-5);
    bytes("    gradients", len, best(|| layer_norm_backward(&x, &dy, &w, &mean, &rstd, 2048, 64)));
    bytes("silu", len, best(|| silu(&x)));
    bytes("gelu", len, best(|| gelu(&x)));
    bytes("    gradient", len, best(|| gelu_backward(&x, &dy)));
    bytes("geglu 1024 x 2*64", len, best(|| geglu(&x, 1024, 64)));
    bytes("add", len, best(|| add(&x, &dy)));
    bytes("transpose 32x64x64", len, best(|| transpose(&x, 32, 64, 64)));
    let (mut p, mut m, mut v) = (x.clone(), x.clone(), vec![1.0; len]);
    let h = AdamW {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        bias_correction1: 0.5,
        bias_correction2: 0.5,
        grad_scale: 1.0,
    };
    bytes("adamw", len, best(|| adamw_step(&mut p, &dy, &mut m, &mut v, &h)));
}
