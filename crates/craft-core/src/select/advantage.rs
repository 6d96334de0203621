//! Group advantages.

use super::EPS;
use crate::stats::mean_std;

/// A deviation below this share of the largest total is rounding noise of equal totals.
const RELATIVE_ZERO: f64 = 1e-12;

/// A group without advantages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupFault {
    /// Fewer than two totals.
    TooSmall,
    /// All totals are equal up to rounding.
    ZeroVariance,
}

/// Mean and deviation of a group's totals, if it can have advantages.
pub(super) fn group_statistics(totals: &[f64]) -> Result<(f64, f64), GroupFault> {
    if totals.len() < 2 {
        return Err(GroupFault::TooSmall);
    }
    let (mean, std) = mean_std(totals);
    let largest = totals.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    if std <= RELATIVE_ZERO * largest {
        return Err(GroupFault::ZeroVariance);
    }
    Ok((mean, std))
}

/// `Â_j = (r_j − mean) / (std + EPS)` for finite totals of one group; population deviation.
///
/// The advantages are finite and sum to 0 up to rounding.
pub fn group_advantages(totals: &[f64]) -> Result<Vec<f64>, GroupFault> {
    let (mean, std) = group_statistics(totals)?;
    Ok(totals.iter().map(|r| advantage(*r, mean, std)).collect())
}

/// One advantage, without overflow of the difference.
pub(super) fn advantage(total: f64, mean: f64, std: f64) -> f64 {
    let scale = std + EPS;
    total / scale - mean / scale
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let a = group_advantages(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        let std = 1.25f64.sqrt();
        for (a, want) in a.iter().zip([-1.5, -0.5, 0.5, 1.5]) {
            assert!((a - want / (std + EPS)).abs() < 1e-12);
        }
        assert_eq!(group_advantages(&[1.0]), Err(GroupFault::TooSmall));
        assert_eq!(group_advantages(&[0.3; 4]), Err(GroupFault::ZeroVariance));
        let noise = [0.1 + 0.2, 0.3, 0.3];
        assert_eq!(group_advantages(&noise), Err(GroupFault::ZeroVariance));
    }
}
