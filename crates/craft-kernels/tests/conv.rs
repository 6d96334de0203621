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

#[test]
#[should_panic(expected = "w")]
fn a_wrong_length_is_refused() {
    let s = conv_shapes()[0];
    let _ = conv2d(&vec![0.0; 3 * 63], &[0.0; 3], None, &s);
}
