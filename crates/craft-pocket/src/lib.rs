//! The embedded default of `craft`: a small world drawn by a program, its captions, its simulated
//! annotators and a checker that finds the facts of a prompt in the pixels.

pub mod world;
