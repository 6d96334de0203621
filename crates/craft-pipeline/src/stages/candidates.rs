//! The candidates of a run as they lie on the disk. Rows, pictures and latents of candidates are read and
//! written through this module alone, one at a time, so that their layout can change in one place.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use craft_core::{Candidate, Prompt};
use craft_store::rows::RowWriter;
use craft_store::{StageWriter, jsonl};

use crate::error::{PipelineError, Result};
use crate::stages::Run;
use crate::stages::scoring::{Place, Shown, Subjects};

const ROWS: &str = "candidates.jsonl";
const LATENTS: &str = "latents.safetensors";
const IMAGES: &str = "images";

/// Candidates that were drawn.
pub(crate) struct Candidates {
    folder: PathBuf,
    prompts: PathBuf,
}

impl Candidates {
    pub(crate) fn of(run: &Run<'_>) -> Self {
        Self { folder: run.path("candidates"), prompts: run.path("prompts/prompts.jsonl") }
    }

    fn rows(&self) -> PathBuf {
        self.folder.join(ROWS)
    }

    /// Calls with each candidate in their order, which is that of the prompts.
    ///
    /// # Errors
    /// When a row cannot be read, and those of `take`.
    pub(crate) fn each(&self, mut take: impl FnMut(Candidate) -> Result<()>) -> Result<()> {
        for row in jsonl::rows(&self.rows())? {
            take(row?)?;
        }
        Ok(())
    }

    /// Calls with each candidate and its prompt.
    ///
    /// # Errors
    /// When a row cannot be read, a candidate's prompt is not among the prompts or not in their order, and
    /// those of `take`.
    pub(crate) fn with_prompts(
        &self,
        mut take: impl FnMut(Candidate, &Prompt) -> Result<()>,
    ) -> Result<()> {
        let mut prompts = jsonl::rows::<Prompt>(&self.prompts)?;
        let mut prompt: Option<Prompt> = None;
        self.each(|candidate| {
            while prompt.as_ref().is_none_or(|p| p.id != candidate.prompt_id) {
                let next = prompts.next().transpose()?;
                prompt = Some(next.ok_or_else(|| self.lost(&candidate))?);
            }
            match &prompt {
                Some(prompt) => take(candidate, prompt),
                None => Err(self.lost(&candidate)),
            }
        })
    }

    fn lost(&self, candidate: &Candidate) -> PipelineError {
        PipelineError::Input {
            path: self.rows(),
            message: format!(
                "prompt {} of candidate {} is not in {}, or not in the same order: expected the prompts that the candidates were drawn for; remove the folder {} and run the same command again, which draws them anew",
                candidate.prompt_id,
                candidate.id,
                self.prompts.display(),
                self.folder.display()
            ),
        }
    }

    /// Where the picture of a candidate lies.
    pub(crate) fn picture(&self, candidate: &Candidate) -> PathBuf {
        self.folder.join(&candidate.image)
    }
}

/// Each candidate's picture, and its prompt as it was asked for, whatever wording was drawn.
impl Subjects for Candidates {
    fn each<'s>(&'s self, take: &mut dyn FnMut(Shown<'s>) -> Result<()>) -> Result<()> {
        self.with_prompts(|candidate, prompt| {
            take(Shown {
                place: Place::File(Cow::Owned(self.picture(&candidate))),
                prompt: Cow::Owned(prompt.text.clone()),
            })
        })
    }
}

/// Candidates that are being drawn.
pub(crate) struct CandidateWriter<'a> {
    writer: &'a StageWriter,
    pub(crate) latents: RowWriter,
}

impl<'a> CandidateWriter<'a> {
    /// Begins, or goes on with, so many candidates with latents of `[channels, height, width]`.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(crate) fn open(
        writer: &'a StageWriter,
        count: usize,
        [c, h, w]: [usize; 3],
    ) -> Result<Self> {
        craft_store::atomic::create_dir(&writer.join(IMAGES))?;
        let latents = RowWriter::open(&writer.join(LATENTS), "latents", &[count, c, h, w])?;
        Ok(Self { writer, latents })
    }

    /// Where the picture of a candidate is to lie.
    pub(crate) fn picture(&self, candidate: &Candidate) -> PathBuf {
        self.writer.join(&candidate.image)
    }

    /// Gives the latents their name and writes the rows, one at a time.
    ///
    /// # Errors
    /// When the disk refuses, and those of `rows`.
    pub(crate) fn finish(
        self,
        rows: impl FnOnce(&mut dyn FnMut(&Candidate) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        self.latents.finish()?;
        let mut file = jsonl::Writer::create(&self.writer.join(Path::new(ROWS)))?;
        rows(&mut |candidate| Ok(file.put(candidate)?))?;
        Ok(file.commit()?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use craft_core::{CandidateId, PromptId, Split};

    #[test]
    fn a_lost_prompt_is_an_error_that_names_the_id_and_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, prompts) = (dir.path().join("candidates"), dir.path().join("prompts.jsonl"));
        craft_store::atomic::create_dir(&folder).unwrap();
        let id = PromptId::from_index;
        let prompt = |i: usize| Prompt::new(id(i), format!("text {i}"), Split::Train);
        let rows = [(0, 0), (0, 1), (2, 0), (2, 1)];
        let rows = rows.map(|(i, v)| Candidate::new(CandidateId::new(id(i), v, 0), "a wording"));
        jsonl::write(&folder.join(ROWS), &rows).unwrap();
        let candidates = Candidates { folder, prompts };
        let read = |kept: &[usize]| {
            let kept = kept.iter().map(|i| prompt(*i));
            jsonl::write(&candidates.prompts, kept).unwrap();
            let mut texts = Vec::new();
            candidates.with_prompts(|candidate, prompt| {
                texts.push(format!("{}: {}", candidate.id, prompt.text));
                Ok(())
            })?;
            Ok::<_, PipelineError>(texts)
        };
        // A prompt without candidates is passed over.
        let texts = read(&[0, 1, 2]).unwrap();
        assert_eq!((texts.len(), texts[2].as_str()), (4, "p00002-v00-s0: text 2"));
        for lost in [&[0, 1][..], &[2, 0], &[]] {
            let message = read(lost).unwrap_err().to_string();
            for word in ["candidate p0000", "candidates.jsonl", "prompts.jsonl", "draws them anew"]
            {
                assert!(message.contains(word), "`{word}` is not in {message}");
            }
        }
    }
}
