//! The adapter of a given rank that is nearest to a change of weights, by subspace iteration
//! (Halko, Martinsson & Tropp 2011, algorithm 4.4).

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::Pair;
use crate::weights::HostTensor;

/// Passes over the matrix; the error of the subspace falls with the power 2·passes of the ratio of
/// singular values.
const PASSES: usize = 6;

impl Pair {
    /// The best product of `rank` for a change of shape `[out, in]` or `[out, in, kh, kw]`, padded
    /// with zeros where the matrix has a smaller rank. Scale 1.
    pub fn nearest(change: &HostTensor, rank: usize) -> Self {
        let out = change.shape[0];
        let width = change.data.len() / out.max(1);
        let matrix: Vec<f64> = change.data.iter().map(|&x| f64::from(x)).collect();
        let used = rank.min(out).min(width);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let mut rows: Vec<Vec<f64>> = (0..used)
            .map(|_| (0..width).map(|_| f64::from(rng.next_u32()) / 2f64.powi(31) - 1.0).collect())
            .collect();
        let mut columns: Vec<Vec<f64>> = Vec::new();
        for _ in 0..PASSES {
            columns = rows.iter().map(|row| times(&matrix, width, row)).collect();
            orthonormalise(&mut columns);
            rows = columns.iter().map(|column| transposed_times(&matrix, width, column)).collect();
        }
        let mut down = vec![0f32; rank * width];
        let mut up = vec![0f32; out * rank];
        for (r, (row, column)) in rows.iter().zip(&columns).enumerate() {
            // Halves of equal size keep 16-bit files exact for small changes.
            let size = row.iter().map(|x| x * x).sum::<f64>().sqrt().sqrt();
            let inverse = if size > 0.0 { 1.0 / size } else { 0.0 };
            for (to, x) in down[r * width..].iter_mut().zip(row) {
                *to = (x * inverse) as f32;
            }
            for (to, x) in up.chunks_exact_mut(rank).zip(column) {
                to[r] = (x * size) as f32;
            }
        }
        let tail = &change.shape[2..];
        let shape = |first: [usize; 2], tail: &[usize]| [&first[..], tail].concat();
        Self {
            down: HostTensor { shape: shape([rank, change.shape[1]], tail), data: down },
            up: HostTensor { shape: shape([out, rank], &vec![1; tail.len()]), data: up },
            scale: 1.0,
        }
    }
}

fn times(matrix: &[f64], width: usize, row: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(width).map(|m| m.iter().zip(row).map(|(a, b)| a * b).sum()).collect()
}

fn transposed_times(matrix: &[f64], width: usize, column: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; width];
    for (m, c) in matrix.chunks_exact(width).zip(column) {
        out.iter_mut().zip(m).for_each(|(sum, a)| *sum += a * c);
    }
    out
}

/// Gram-Schmidt, twice for accuracy; a vector that depends on those before it becomes 0.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for i in 0..vectors.len() {
        let (done, rest) = vectors.split_at_mut(i);
        let vector = &mut rest[0];
        let before = norm(vector);
        for _ in 0..2 {
            for other in done.iter() {
                let dot: f64 = other.iter().zip(vector.iter()).map(|(a, b)| a * b).sum();
                vector.iter_mut().zip(other).for_each(|(v, o)| *v -= dot * o);
            }
        }
        let size = norm(vector);
        let factor = if size > 1e-10 * before { 1.0 / size } else { 0.0 };
        vector.iter_mut().for_each(|x| *x *= factor);
    }
}

fn norm(vector: &[f64]) -> f64 {
    vector.iter().map(|x| x * x).sum::<f64>().sqrt()
}
