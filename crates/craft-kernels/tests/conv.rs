//! Convolution against the definition.
mod common;
use common::{Rng, close, conv, conv_shapes};
use craft_kernels::*;

#[test]
fn every_pass_matches_the_definition() {
    let mut r = Rng(1);
    for s in conv_shapes() {
        let x = r.vec(s.batch * s.in_channels * s.height * s.width);
        let w = r.vec(s.out_channels * s.in_channels * s.kernel[0] * s.kernel[1]);
        let b = r.vec(s.out_channels);
        let dy = r.vec(s.batch * s.out_channels * s.out_height() * s.out_width());
        let [y, dx, dw, db] = conv(&x, &w, &b, &dy, &s);
        close(&conv2d(&x, &w, Some(&b), &s), &y, 1e-5, &format!("y {s:?}"));
        close(&conv2d_backward_input(&dy, &w, &s), &dx, 1e-5, &format!("dx {s:?}"));
        close(&conv2d_backward_weight(&x, &dy, &s), &dw, 1e-5, &format!("dw {s:?}"));
        close(&conv2d_backward_bias(&dy, &s), &db, 1e-5, &format!("db {s:?}"));
        let y0 = conv(&x, &w, &vec![0.0; b.len()], &dy, &s)[0].clone();
        close(&conv2d(&x, &w, None, &s), &y0, 1e-5, &format!("y without bias {s:?}"));
    }
}

/// Random shapes that go Winograd's way, those of small networks among them.
fn winograd_shapes(r: &mut Rng) -> Vec<ConvShape> {
    let mut all: Vec<ConvShape> = conv_shapes().into_iter().filter(ConvShape::winograd).collect();
    assert!(all.len() >= 8);
    for _ in 0..25 {
        let s = ConvShape {
            batch: 1 + r.below(3),
            in_channels: 16 + r.below(60),
            out_channels: 16 + r.below(60),
            height: 4 + r.below(15),
            width: 4 + r.below(15),
            kernel: [3, 3],
            stride: [1, 1],
            padding: [1, 1, 1, 1],
        };
        assert!(s.winograd(), "{s:?}");
        all.push(s);
    }
    all
}

#[test]
fn winograds_way_matches_the_definition() {
    let mut r = Rng(4);
    for s in winograd_shapes(&mut r) {
        let x = r.vec(s.batch * s.in_channels * s.height * s.width);
        let w = r.vec(s.out_channels * s.in_channels * 9);
        let b = r.vec(s.out_channels);
        let dy = r.vec(s.batch * s.out_channels * s.out_height() * s.out_width());
        let [y, dx, dw, _] = conv(&x, &w, &b, &dy, &s);
        close(&conv2d(&x, &w, Some(&b), &s), &y, 1e-5, &format!("y {s:?}"));
        close(&conv2d_backward_input(&dy, &w, &s), &dx, 1e-5, &format!("dx {s:?}"));
        close(&conv2d_backward_weight(&x, &dy, &s), &dw, 1e-5, &format!("dw {s:?}"));
    }
}

#[test]
fn gradients_are_slopes() {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    let moved = |a: &[f32], d: &[f32], step: f32| -> Vec<f32> {
        a.iter().zip(d).map(|(a, d)| a + step * d).collect()
    };
    let mut r = Rng(5);
    for s in winograd_shapes(&mut r) {
        let x = r.vec(s.batch * s.in_channels * s.height * s.width);
        let w = r.vec(s.out_channels * s.in_channels * 9);
        let dy = r.vec(s.batch * s.out_channels * s.out_height() * s.out_width());
        let loss = |x: &[f32], w: &[f32]| dot(&conv2d(x, w, None, &s), &dy);
        let size = dot(&dy, &dy).sqrt() * (s.in_channels as f64).sqrt();
        let d = r.vec(x.len());
        let slope = loss(&moved(&x, &d, 0.5), &w) - loss(&moved(&x, &d, -0.5), &w);
        let gradient = dot(&conv2d_backward_input(&dy, &w, &s), &d);
        assert!((slope - gradient).abs() < 1e-5 * size, "{slope} and {gradient}, {s:?}");
        let d = r.vec(w.len());
        let slope = loss(&x, &moved(&w, &d, 0.5)) - loss(&x, &moved(&w, &d, -0.5));
        let gradient = dot(&conv2d_backward_weight(&x, &dy, &s), &d);
        assert!((slope - gradient).abs() < 1e-5 * size, "{slope} and {gradient}, {s:?}");
    }
}

#[test]
fn products_of_plain_matrices_match_the_definition() {
    let mut r = Rng(6);
    let s = ConvShape {
        batch: 2,
        in_channels: 67,
        out_channels: 301,
        height: 13,
        width: 17,
        kernel: [1, 1],
        stride: [1, 1],
        padding: [0; 4],
    };
    let x = r.vec(s.batch * s.in_channels * s.height * s.width);
    let (w, b) = (r.vec(s.out_channels * s.in_channels), r.vec(s.out_channels));
    let dy = r.vec(s.batch * s.out_channels * s.height * s.width);
    let [y, dx, _, _] = conv(&x, &w, &b, &dy, &s);
    close(&conv2d(&x, &w, Some(&b), &s), &y, 1e-5, "y");
    close(&conv2d_backward_input(&dy, &w, &s), &dx, 1e-5, "dx");
}

#[test]
#[should_panic(expected = "w")]
fn a_wrong_length_is_refused() {
    let s = conv_shapes()[0];
    let _ = conv2d(&vec![0.0; 3 * 63], &[0.0; 3], None, &s);
}
