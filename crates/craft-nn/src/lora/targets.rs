//! Which weights of a network get low-rank factors, and what the factors start from.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Pair, Pairs};
use crate::weights::HostTensor;

/// Word of a list of targets that stands for every linear map and convolution.
const ALL: &str = "all";
/// Word that stands for every linear map.
const ALL_LINEAR: &str = "all-linear";

/// Why factors cannot be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum TargetError {
    /// A target that no module has.
    #[error(
        "`{target}` is no linear map or convolution of {network}; expected `all`, `all-linear`, or endings of module names such as {}",
        known.join(", ")
    )]
    Nothing {
        /// The target.
        target: String,
        /// The network.
        network: String,
        /// Endings that would fit.
        known: Vec<String>,
    },
    /// A rank that is larger than a layer.
    #[error(
        "rank {rank} is larger than {module} of {network}, which is {rows}×{columns}; expected at most {}",
        rows.min(columns)
    )]
    Rank {
        /// The rank.
        rank: usize,
        /// The layer.
        module: String,
        /// The network.
        network: String,
        /// Outputs of the layer.
        rows: usize,
        /// Inputs of the layer, times the window of a convolution.
        columns: usize,
    },
}

/// Modules by endings of their names, as PEFT's `target_modules`: `to_q` is every module of that
/// name,
/// `attn2.to_q` those within an `attn2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets(Vec<String>);

/// Rows and columns of a weight as a matrix, if it belongs to a linear map or a convolution.
fn matrix<'a>(parameter: &'a str, shape: &[usize]) -> Option<(&'a str, [usize; 2])> {
    let module = parameter.strip_suffix(".weight")?;
    let fits = matches!(shape.len(), 2 | 4) && !module.ends_with("embedding");
    fits.then(|| (module, [shape[0], shape[1..].iter().product()]))
}

impl Targets {
    /// Targets by their names.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// The parameters of a network that get factors of a rank, by name. Layers that are smaller
    /// than the rank (the last convolution of a denoiser) are left out of `all` and `all-linear`.
    ///
    /// # Errors
    /// When a target is no module of the network, or a module that is named is smaller than the
    /// rank.
    pub fn choose(
        &self,
        network: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        rank: usize,
    ) -> Result<Vec<String>, TargetError> {
        let mut chosen = Vec::new();
        let mut hits = vec![0; self.0.len()];
        for (parameter, shape) in shapes {
            let Some((module, [rows, columns])) = matrix(parameter, shape) else { continue };
            let small = rank > rows.min(columns);
            let mut wanted = false;
            for (target, hits) in self.0.iter().zip(&mut hits) {
                let general = target == ALL || (target == ALL_LINEAR && shape.len() == 2);
                let named = module
                    .strip_suffix(target.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                if named && small {
                    let (module, network) = (module.to_owned(), network.to_owned());
                    return Err(TargetError::Rank { rank, module, network, rows, columns });
                }
                if named || (general && !small) {
                    *hits += 1;
                    wanted = true;
                }
            }
            if wanted {
                chosen.push(parameter.clone());
            }
        }
        match self.0.iter().zip(hits).find(|(_, hits)| *hits == 0) {
            Some((target, _)) => Err(self.nothing(target, network, shapes, rank)),
            None => Ok(chosen),
        }
    }

    /// The error of a target without modules: for the general ones, the rank is to blame.
    fn nothing(
        &self,
        target: &str,
        network: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        rank: usize,
    ) -> TargetError {
        let mut layers: Vec<(&str, [usize; 2])> =
            shapes.iter().filter_map(|(name, shape)| matrix(name, shape)).collect();
        let network = network.to_owned();
        if [ALL, ALL_LINEAR].contains(&target) {
            layers.sort_by_key(|(_, [rows, columns])| *rows.min(columns));
            let (module, [rows, columns]) = layers.last().copied().unwrap_or(("none", [0, 0]));
            return TargetError::Rank { rank, module: module.to_owned(), network, rows, columns };
        }
        let mut known: Vec<String> = layers
            .iter()
            .map(|(module, _)| {
                // `to_out.0` needs its parent, since a bare number says nothing.
                let mut parts = module.rsplitn(3, '.');
                let (last, parent) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
                match last.parse::<usize>() {
                    Ok(_) => format!("{parent}.{last}"),
                    Err(_) => last.to_owned(),
                }
            })
            .collect();
        known.sort();
        known.dedup();
        TargetError::Nothing { target: target.to_owned(), network, known }
    }

    /// New factors for the chosen parameters: A by `draw(parameter, values)`, B zero, so that the
    /// network computes what it did before.
    ///
    /// # Errors
    /// As [`Targets::choose`].
    pub fn fresh(
        &self,
        network: &str,
        shapes: &BTreeMap<String, Vec<usize>>,
        rank: usize,
        scale: f32,
        draw: &mut dyn FnMut(&str, [usize; 2]) -> Vec<f32>,
    ) -> Result<Pairs, TargetError> {
        let mut out = Pairs::new();
        for parameter in self.choose(network, shapes, rank)? {
            let shape = &shapes[&parameter];
            let tail = &shape[2..];
            let columns: usize = shape[1..].iter().product();
            let ones = vec![1; tail.len()];
            let down = HostTensor {
                shape: [&[rank, shape[1]][..], tail].concat(),
                data: draw(&parameter, [rank, columns]),
            };
            let up = HostTensor {
                shape: [&[shape[0], rank][..], &ones].concat(),
                data: vec![0.0; shape[0] * rank],
            };
            out.insert(parameter, Pair { down, up, scale });
        }
        Ok(out)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shapes() -> BTreeMap<String, Vec<usize>> {
        [
            ("a.attn1.to_q.weight", vec![8, 8]),
            ("a.attn1.to_q.bias", vec![8]),
            ("a.attn2.to_q.weight", vec![8, 6]),
            ("a.attn2.to_out.0.weight", vec![8, 8]),
            ("a.not_to_q.weight", vec![8, 8]),
            ("conv_out.weight", vec![4, 8, 3, 3]),
            ("token_embedding.weight", vec![99, 8]),
        ]
        .into_iter()
        .map(|(name, shape)| (name.to_owned(), shape))
        .collect()
    }

    fn choose(targets: &[&str], rank: usize) -> Result<Vec<String>, TargetError> {
        Targets::new(targets.iter().copied()).choose("the UNet", &shapes(), rank)
    }

    #[test]
    fn targets_are_whole_endings() {
        assert_eq!(choose(&["to_q"], 2).unwrap(), ["a.attn1.to_q.weight", "a.attn2.to_q.weight"]);
        assert_eq!(choose(&["attn2.to_q"], 2).unwrap(), ["a.attn2.to_q.weight"]);
        assert_eq!(choose(&["to_out.0", "to_q"], 2).unwrap().len(), 3);
        assert_eq!(choose(&["all"], 4).unwrap().len(), 5);
        assert_eq!(choose(&["all-linear"], 4).unwrap().len(), 4);
    }

    #[test]
    fn small_layers_are_left_out_of_all_and_refused_by_name() {
        assert!(!choose(&["all"], 6).unwrap().contains(&"conv_out.weight".to_owned()));
        let text = choose(&["conv_out"], 6).unwrap_err().to_string();
        assert!(text.contains("rank 6") && text.contains("conv_out") && text.contains("4×72"));
        let text = choose(&["all"], 9).unwrap_err().to_string();
        assert!(text.contains("rank 9") && text.contains("at most 8"), "{text}");
    }

    #[test]
    fn a_target_without_modules_is_named_with_what_there_is() {
        let text = choose(&["to_q", "q_proj"], 2).unwrap_err().to_string();
        assert!(text.contains("`q_proj`") && text.contains("to_out.0, to_q"), "{text}");
    }

    #[test]
    fn fresh_factors_change_nothing() {
        let targets = Targets::new(["all"]);
        let mut draw = |_: &str, [a, b]: [usize; 2]| vec![0.5; a * b];
        let pairs = targets.fresh("the UNet", &shapes(), 3, 2.0, &mut draw).unwrap();
        assert_eq!(pairs["conv_out.weight"].down.shape, [3, 8, 3, 3]);
        assert_eq!(pairs["conv_out.weight"].up.shape, [4, 3, 1, 1]);
        let mut weight = vec![1.0; 48];
        pairs["a.attn2.to_q.weight"].add_to(&mut weight, 1.0);
        assert_eq!(weight, vec![1.0; 48]);
    }
}
