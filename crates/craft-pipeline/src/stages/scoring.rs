//! Scoring of pictures by one reward after the other. Pictures are read when they are scored and dropped
//! then: of each a hash and its scores are kept.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use craft_core::Missing;
use craft_rewards::{MissingReason, Reward, RgbImageRef};
use craft_store::{RgbImage, image};
use rayon::prelude::*;

use crate::cache::{Digest, ScoreCache};
use crate::error::{PipelineError, Result};
use crate::rewards::RunReward;
use crate::stages::Run;
use crate::stages::column::Column;

/// Pictures that are read before it is looked whether the run was stopped.
const READ: usize = 64;

/// A score, or the reason for its absence.
pub(crate) type Scored = std::result::Result<f64, Missing>;

/// Where a picture is.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    File(Cow<'a, Path>),
    Memory(&'a RgbImage),
}

/// A picture and what it is to show.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) prompt: Cow<'a, str>,
}

impl Shown<'_> {
    fn file(&self) -> Option<&Path> {
        match &self.place {
            Place::File(file) => Some(file),
            Place::Memory(_) => None,
        }
    }

    fn read(&self) -> std::result::Result<Cow<'_, RgbImage>, Missing> {
        match &self.place {
            Place::File(file) => {
                image::read(file).map(Cow::Owned).map_err(|e| Missing::BadPicture(e.to_string()))
            }
            Place::Memory(picture) => Ok(Cow::Borrowed(picture)),
        }
    }
}

/// Pictures with their prompts, given one after the other as often as asked for, always in one order. They
/// may be more than the memory holds.
pub(crate) trait Subjects {
    /// Calls with each.
    ///
    /// # Errors
    /// When the list cannot be read, and those of `take`.
    fn each<'s>(&'s self, take: &mut dyn FnMut(Shown<'s>) -> Result<()>) -> Result<()>;
}

/// Hashes of pictures by their places: what they are known by in the cache of scores.
pub(crate) struct Hashes {
    digests: Vec<Digest>,
    /// Why a picture could not be read.
    unread: Column,
}

impl Hashes {
    /// Reads all pictures once.
    ///
    /// # Errors
    /// When the list of pictures cannot be read, and when the run was stopped. A picture that cannot be read
    /// lacks its score.
    pub(crate) fn of(run: &Run<'_>, subjects: &dyn Subjects) -> Result<Self> {
        let mut all = Self { digests: Vec::new(), unread: Column::default() };
        let mut part = Vec::with_capacity(READ);
        subjects.each(&mut |shown| {
            part.push(shown);
            if part.len() == READ { all.read(run, &mut part) } else { Ok(()) }
        })?;
        all.read(run, &mut part)?;
        Ok(all)
    }

    fn read(&mut self, run: &Run<'_>, part: &mut Vec<Shown<'_>>) -> Result<()> {
        run.context.check()?;
        let hash = |shown: &Shown<'_>| shown.read().map(|picture| ScoreCache::image(&picture));
        let found: Vec<std::result::Result<Digest, Missing>> = part.par_iter().map(hash).collect();
        for digest in found {
            if let Err(reason) = &digest {
                self.unread.miss(self.digests.len(), reason.clone());
            }
            self.digests.push(digest.unwrap_or_default());
        }
        part.clear();
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.digests.len()
    }
}

/// A reward that scores.
#[derive(Clone, Copy)]
pub(crate) struct Scorer<'a> {
    pub(crate) reward: &'a RunReward,
    pub(crate) model: &'a dyn Reward,
    /// Hash of what the reward is made of.
    pub(crate) digest: &'a str,
}

/// Scores all pictures with one reward, those apart whose score is known. What was scored is kept when the run
/// is stopped on the way. A picture that could not be read lacks its score. `done` is told how many are done.
///
/// # Errors
/// When no picture has a score, when the recipe asks to stop at a missing one, and when the run was stopped.
pub(crate) fn score(
    run: &Run<'_>,
    cache: &mut ScoreCache,
    (subjects, hashes): (&dyn Subjects, &Hashes),
    scorer: Scorer<'_>,
    done: impl Fn(usize),
) -> Result<Column> {
    let batch = scorer.model.batch().max(1);
    let version = version(scorer);
    let mut pass = Pass { run, cache, hashes, scorer, version, column: Column::new(hashes.len()) };
    let mut open: Vec<(usize, Shown<'_>)> = Vec::with_capacity(batch);
    let mut place = 0;
    subjects.each(&mut |shown| {
        if pass.known(place, &shown)? {
            done(1);
        } else {
            open.push((place, shown));
        }
        place += 1;
        if open.len() == batch {
            pass.part(&open)?;
            done(open.len());
            open.clear();
        }
        Ok(())
    })?;
    if !open.is_empty() {
        pass.part(&open)?;
        done(open.len());
    }
    pass.cache.sync()?;
    let column = pass.column;
    if column.len() > 0
        && column.lacking() == column.len()
        && let Err(reason) = column.get(0)
    {
        return Err(PipelineError::NoScores {
            reward: scorer.reward.name.clone(),
            images: column.len(),
            reason: reason.to_string(),
        });
    }
    Ok(column)
}

/// What the cache knows a reward by.
fn version(Scorer { model, digest, .. }: Scorer<'_>) -> String {
    format!("{} {}", model.version(), digest.get(..16).unwrap_or(digest))
}

/// A reward's reason as files have it.
fn missing(reason: MissingReason) -> Missing {
    match reason {
        MissingReason::NotFinite(value) => Missing::NonFinite(value.to_string()),
        MissingReason::NoPrompt => Missing::NoPrompt,
        MissingReason::External(why) => Missing::External(why),
        bad @ MissingReason::BadImage { .. } => Missing::BadPicture(bad.to_string()),
    }
}

/// One reward's way through the pictures.
struct Pass<'a, 'r> {
    run: &'a Run<'r>,
    cache: &'a mut ScoreCache,
    hashes: &'a Hashes,
    scorer: Scorer<'a>,
    version: String,
    column: Column,
}

impl Pass<'_, '_> {
    fn name(&self) -> &str {
        &self.scorer.reward.name
    }

    /// Whether nothing is to be scored: the cache has it, or the picture could not be read.
    fn known(&mut self, place: usize, shown: &Shown<'_>) -> Result<bool> {
        let Some(digest) = self.hashes.digests.get(place) else {
            return Err(PipelineError::Usage(
                "the list of pictures grew while they were scored: expected nothing else to write to the run; run the same command again".to_owned(),
            ));
        };
        if let Some(reason) = self.hashes.unread.reason(place) {
            self.column.miss(place, reason.clone());
            return Ok(true);
        }
        let found = self.cache.get(digest, &shown.prompt, self.name(), &self.version);
        if let Some(score) = found {
            self.column.set(place, score);
        }
        Ok(found.is_some())
    }

    /// Scores a batch.
    fn part(&mut self, part: &[(usize, Shown<'_>)]) -> Result<()> {
        self.run.context.check()?;
        let rows = self.scores(part);
        for ((place, shown), row) in part.iter().zip(rows) {
            match row {
                Ok(score) => {
                    self.column.set(*place, score);
                    let name = &self.scorer.reward.name;
                    let digest = &self.hashes.digests[*place];
                    self.cache.put(digest, &shown.prompt, name, &self.version, score)?;
                }
                Err(reason) => self.column.miss(*place, reason),
            }
        }
        self.cache.sync_now_and_then()?;
        // Ctrl-C reaches a program that scores as well: what it did not say then is no missing score.
        self.run.context.check()?;
        if self.scorer.reward.stops { self.stop_at_missing(part) } else { Ok(()) }
    }

    /// Reads the pictures of a batch and asks the reward about those that can be read.
    fn scores(&self, part: &[(usize, Shown<'_>)]) -> Vec<Scored> {
        let read: Vec<_> = part.par_iter().map(|(_, shown)| shown.read()).collect();
        let there =
            || read.iter().zip(part).filter_map(|(r, (_, shown))| Some((r.as_ref().ok()?, shown)));
        let views: Vec<RgbImageRef<'_>> = there()
            .map(|(p, _)| RgbImageRef { pixels: &p.data, width: p.width, height: p.height })
            .collect();
        let files: Vec<Option<&Path>> = there().map(|(_, shown)| shown.file()).collect();
        let texts: Vec<&str> = there().map(|(_, shown)| shown.prompt.as_ref()).collect();
        let mut scores = self.scorer.model.score_files(&views, &files, &texts).into_iter();
        read.iter()
            .map(|picture| match picture {
                Ok(_) => match scores.next() {
                    Some(score) => score.map(|s| s.get()).map_err(missing),
                    None => Err(Missing::NotScored),
                },
                // It was there when its hash was made.
                Err(reason) => Err(reason.clone()),
            })
            .collect()
    }

    /// Stops where the recipe says `on_failure = "stop"`.
    fn stop_at_missing(&self, part: &[(usize, Shown<'_>)]) -> Result<()> {
        for (place, shown) in part {
            if let Err(reason) = self.column.get(*place) {
                return Err(PipelineError::Unscored {
                    reward: self.name().to_owned(),
                    image: match shown.file() {
                        Some(file) => file.display().to_string(),
                        None => format!("a picture of `{}`", shown.prompt),
                    },
                    reason: reason.to_string(),
                });
            }
        }
        Ok(())
    }
}

/// Pictures that are few enough to be listed, on disk or in memory.
#[derive(Clone, Copy)]
pub enum Pictures<'a> {
    /// On disk, as PNG.
    Files(&'a [PathBuf]),
    /// In memory.
    Memory(&'a [RgbImage]),
}

impl<'a> Pictures<'a> {
    fn place(&self, i: usize) -> Option<Place<'a>> {
        match self {
            Self::Files(files) => files.get(i).map(|file| Place::File(Cow::Borrowed(file))),
            Self::Memory(pictures) => pictures.get(i).map(Place::Memory),
        }
    }
}

/// A list of pictures with their prompts, ready to be scored by any reward.
pub(crate) struct Work<'a> {
    list: List<'a>,
    hashes: Hashes,
}

struct List<'a> {
    pictures: Pictures<'a>,
    prompts: &'a [&'a str],
}

impl Subjects for List<'_> {
    fn each<'s>(&'s self, take: &mut dyn FnMut(Shown<'s>) -> Result<()>) -> Result<()> {
        for (i, prompt) in self.prompts.iter().enumerate() {
            let Some(place) = self.pictures.place(i) else { break };
            take(Shown { place, prompt: Cow::Borrowed(prompt) })?;
        }
        Ok(())
    }
}

impl<'a> Work<'a> {
    /// Picture `i` is to show `prompts[i]`.
    ///
    /// # Errors
    /// When the run was stopped.
    pub(crate) fn new(
        run: &Run<'_>,
        pictures: Pictures<'a>,
        prompts: &'a [&'a str],
    ) -> Result<Self> {
        let list = List { pictures, prompts };
        let hashes = Hashes::of(run, &list)?;
        Ok(Self { list, hashes })
    }

    /// [`score`] of all of them.
    ///
    /// # Errors
    /// Those of [`score`].
    pub(crate) fn score(
        &self,
        run: &Run<'_>,
        cache: &mut ScoreCache,
        (reward, model, digest): (&RunReward, &dyn Reward, &str),
        done: impl Fn(usize),
    ) -> Result<Vec<Scored>> {
        let scorer = Scorer { reward, model, digest };
        let column = score(run, cache, (&self.list, &self.hashes), scorer, done)?;
        Ok((0..column.len()).map(|i| column.get(i).map_err(Clone::clone)).collect())
    }
}
