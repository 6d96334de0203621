//! One model on the evaluation prompts: its pictures, their scores and numbers. Rows and pictures pass through
//! one after the other; of each picture a number for each reward stays in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::{Key, Missing, Prompt, Split};
use craft_store::hash::{sha256_bytes, sha256_file};
use craft_store::{StageWriter, image, jsonl};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cache::ScoreCache;
use crate::error::Result;
use crate::rewards::{RunReward, for_each};
use crate::stages::Run;
use crate::stages::column::Column;
use crate::stages::generate::options;
use crate::stages::pictures::{Item, Series};
use crate::stages::scoring::{Hashes, Place, Scorer, Shown, Subjects, score};
use crate::statistics::Measuring;
use crate::world::FactRow;
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Painter};

/// The name under which the checker's accuracy stands among the rewards.
pub const CHECKER: &str = "checker";

/// Prompts whose pictures are measured before their rows are written.
const PART: usize = 16;

/// One picture of one model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SampleRow {
    pub(crate) prompt_id: String,
    pub(crate) text: String,
    pub(crate) sample: usize,
    pub(crate) model: String,
    pub(crate) image: String,
    pub(crate) scores: BTreeMap<String, f64>,
    /// Why a reward gave no score.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) missing: BTreeMap<String, Missing>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) facts: Vec<FactRow>,
}

/// The evaluation prompts of a run, and how many pictures of each there are.
pub(crate) struct Questions {
    file: PathBuf,
    /// At most so many prompts, the first.
    most: usize,
    pub(crate) samples: usize,
}

impl Questions {
    pub(crate) fn of(run: &Run<'_>, most: usize, samples: usize) -> Self {
        Self { file: run.path("prompts/prompts.jsonl"), most, samples: samples.max(1) }
    }

    /// Calls with each prompt in their order.
    ///
    /// # Errors
    /// When a row cannot be read, and those of `take`.
    pub(crate) fn each(&self, mut take: impl FnMut(Prompt) -> Result<()>) -> Result<()> {
        let mut left = self.most;
        for prompt in jsonl::rows::<Prompt>(&self.file)? {
            let prompt = prompt?;
            if prompt.split != Split::Eval {
                continue;
            }
            if left == 0 {
                break;
            }
            left -= 1;
            take(prompt)?;
        }
        Ok(())
    }

    /// How many prompts there are.
    ///
    /// # Errors
    /// When a row cannot be read.
    pub(crate) fn count(&self) -> Result<usize> {
        let mut n = 0;
        self.each(|_| {
            n += 1;
            Ok(())
        })?;
        Ok(n)
    }
}

/// A model to measure.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) load: &'a dyn Fn() -> Result<Model>,
    pub(crate) questions: &'a Questions,
}

/// The pictures of one model in a stage's folder.
struct Gallery<'a> {
    folder: &'a Path,
    name: &'a str,
    questions: &'a Questions,
}

impl Gallery<'_> {
    /// Path of a picture relative to the folder.
    fn image(&self, prompt: &Prompt, sample: usize) -> String {
        format!("images/{}/{}-s{sample}.png", self.name, prompt.id)
    }

    fn each_picture(
        &self,
        mut take: impl FnMut(&Prompt, usize, PathBuf) -> Result<()>,
    ) -> Result<()> {
        self.questions.each(|prompt| {
            for sample in 0..self.questions.samples {
                take(&prompt, sample, self.folder.join(self.image(&prompt, sample)))?;
            }
            Ok(())
        })
    }

    fn all_drawn(&self) -> Result<bool> {
        let mut all = true;
        self.each_picture(|_, _, file| {
            all = all && image::is_whole_png(&file);
            Ok(())
        })?;
        Ok(all)
    }
}

impl Subjects for Gallery<'_> {
    fn each<'s>(&'s self, take: &mut dyn FnMut(Shown<'s>) -> Result<()>) -> Result<()> {
        self.each_picture(|prompt, _, file| {
            let prompt = Cow::Owned(prompt.text.clone());
            take(Shown { place: Place::File(Cow::Owned(file)), prompt })
        })
    }
}

/// Where the rows of a model are while its stage works.
pub(crate) fn rows_path(writer: &StageWriter, name: &str) -> PathBuf {
    writer.join(format!(".rows-{name}.jsonl"))
}

/// Draws, scores and measures one model. Its rows are left in [`rows_path`]; they and its numbers, which are
/// returned, are kept in hidden files, so that a stopped stage continues.
///
/// # Errors
/// Those of drawing, scoring, reading and writing.
pub(crate) fn one_model(
    run: &Run<'_>,
    writer: &StageWriter,
    subject: &Subject<'_>,
    rewards: &[RunReward],
    hashes: &BTreeMap<String, String>,
) -> Result<Value> {
    let Subject { name, load, questions } = subject;
    let rows_path = rows_path(writer, name);
    let numbers_path = writer.join(format!(".numbers-{name}.json"));
    let pictures = questions.count()? * questions.samples;
    if let Some(numbers) = kept(writer, &rows_path, &numbers_path, pictures) {
        run.context.progress.advance(pictures as u64);
        return Ok(numbers);
    }
    run.context.check()?;
    craft_store::atomic::create_dir(&writer.join(format!("images/{name}")))?;
    let gallery = Gallery { folder: writer.dir(), name, questions };
    if gallery.all_drawn()? {
        run.context.progress.advance(pictures as u64);
    } else {
        // Its memory is free again before rewards are loaded.
        let model = load()?;
        let options = drawing_options(run, &model)?;
        let mut painter = Painter::new(&model, options, run.context.stop)?;
        draw(run, &gallery, &mut painter)?;
    }
    let columns = columns(run, &gallery, rewards, hashes)?;
    let numbers = write_rows(run, &gallery, &columns, &rows_path)?;
    let rows_sha256 = sha256_file(&rows_path)?;
    let check = check(&rows_sha256, &numbers);
    let measured = Measured { rows_sha256, numbers, check };
    craft_store::manifest::write_json(&numbers_path, &measured)?;
    Ok(measured.numbers)
}

/// How pictures of the evaluation are drawn.
pub(crate) fn drawing_options(run: &Run<'_>, model: &Model) -> Result<DrawOptions> {
    Ok(DrawOptions {
        steps: run.recipe.evaluate_steps(),
        guidance_scale: run.recipe.evaluate_guidance_scale(),
        ..options(&run.recipe.generate, model)?
    })
}

/// Draws what is not there, a batch at a time.
fn draw(run: &Run<'_>, gallery: &Gallery<'_>, painter: &mut Painter<'_>) -> Result<()> {
    let key = Key::new(run.recipe.seed).stage("evaluate");
    let batch = painter.options().batch.max(1);
    let mut part: Vec<(PathBuf, Prompt, usize)> = Vec::with_capacity(batch);
    let mut draw = |part: &mut Vec<(PathBuf, Prompt, usize)>| -> Result<()> {
        let item =
            |(file, prompt, sample): &'_ (PathBuf, Prompt, usize)| -> (PathBuf, Key, String) {
                let key = key.clone().prompt(&prompt.id).sample(*sample as u64);
                (file.clone(), key, format!("Prompt: {}, Sample: {sample}", prompt.id))
            };
        let items: Vec<Item<'_>> = part
            .iter()
            .map(|of| {
                let (file, key, place) = item(of);
                Item { file, prompt: &of.1.text, key, place }
            })
            .collect();
        let series = Series { recipe: run.recipe, items: &items, model: gallery.name };
        series.draw_part(painter, None, run.context.progress)?;
        part.clear();
        Ok(())
    };
    gallery.each_picture(|prompt, sample, file| {
        part.push((file, prompt.clone(), sample));
        if part.len() == batch { draw(&mut part) } else { Ok(()) }
    })?;
    draw(&mut part)
}

/// Asks every reward about the pictures.
fn columns<'r>(
    run: &Run<'_>,
    gallery: &Gallery<'_>,
    rewards: &'r [RunReward],
    hashes: &BTreeMap<String, String>,
) -> Result<Vec<(&'r str, Column)>> {
    let known = Hashes::of(run, gallery)?;
    let mut cache = ScoreCache::open(run.folder, &run.context)?;
    let named: Vec<_> = rewards.iter().map(|r| (r.name.as_str(), &r.source)).collect();
    let mut columns = Vec::with_capacity(rewards.len());
    for_each(&named, run.context.device(), |index, model| {
        let reward = &rewards[index];
        let scorer = Scorer { reward, model, digest: hashes[&reward.name].as_str() };
        let column = score(run, &mut cache, (gallery, &known), scorer, |_| ())?;
        columns.push((reward.name.as_str(), column));
        Ok(())
    })?;
    Ok(columns)
}

/// Writes the rows, and measures the pictures for it, some prompts at a time. Returns the numbers of all.
fn write_rows(
    run: &Run<'_>,
    gallery: &Gallery<'_>,
    columns: &[(&str, Column)],
    path: &Path,
) -> Result<Value> {
    let samples = gallery.questions.samples;
    let mut measuring = Measuring::default();
    let mut file = jsonl::Writer::create(path)?;
    let mut first = 0;
    let mut part: Vec<Prompt> = Vec::with_capacity(PART);
    let mut write = |part: &mut Vec<Prompt>| -> Result<()> {
        let pictures = part.iter().flat_map(|p| (0..samples).map(move |sample| (p, sample)));
        let files: Vec<PathBuf> = pictures
            .clone()
            .map(|(prompt, sample)| gallery.folder.join(gallery.image(prompt, sample)))
            .collect();
        let world = run.context.world;
        let facts = measuring.add(&files, samples, |i, picture| {
            world?.check(&picture.data, part[i / samples].facts.as_ref()?)
        })?;
        for ((prompt, sample), facts) in pictures.zip(facts) {
            let mut row = SampleRow {
                prompt_id: prompt.id.to_string(),
                text: prompt.text.clone(),
                sample,
                model: gallery.name.to_owned(),
                image: gallery.image(prompt, sample),
                scores: BTreeMap::new(),
                missing: BTreeMap::new(),
                facts: Vec::new(),
            };
            for (name, column) in columns {
                match column.get(first) {
                    Ok(score) => drop(row.scores.insert((*name).to_owned(), score)),
                    Err(why) => drop(row.missing.insert((*name).to_owned(), why.clone())),
                }
            }
            if let Some(facts) = facts.filter(|facts| !facts.is_empty()) {
                let passed = facts.iter().filter(|f| f.passed).count();
                row.scores.insert(CHECKER.to_owned(), passed as f64 / facts.len() as f64);
                row.facts = facts;
            }
            file.put(&row)?;
            first += 1;
        }
        part.clear();
        Ok(())
    };
    gallery.questions.each(|prompt| {
        part.push(prompt);
        if part.len() == PART { write(&mut part) } else { Ok(()) }
    })?;
    write(&mut part)?;
    file.commit()?;
    Ok(json!(measuring.numbers()))
}

/// What is kept of a model that was measured, beside its rows.
#[derive(Serialize, Deserialize)]
struct Measured {
    rows_sha256: String,
    numbers: Value,
    /// Digest of the two.
    check: String,
}

fn check(rows_sha256: &str, numbers: &Value) -> String {
    sha256_bytes(format!("{rows_sha256} {numbers}"))
}

/// The numbers that an interrupted attempt kept of a model, if all of it is as it was written: the rows, the
/// numbers, and the pictures. Otherwise the model is measured again, from the pictures and scores that are left.
fn kept(
    writer: &StageWriter,
    rows_path: &Path,
    numbers_path: &Path,
    pictures: usize,
) -> Option<Value> {
    let found: Measured = craft_store::manifest::read_json(numbers_path).ok()?;
    let same = sha256_file(rows_path).ok()? == found.rows_sha256
        && check(&found.rows_sha256, &found.numbers) == found.check;
    let mut rows = 0;
    for row in jsonl::rows::<SampleRow>(rows_path).ok()? {
        if !image::is_whole_png(&writer.join(&row.ok()?.image)) {
            return None;
        }
        rows += 1;
    }
    (same && rows == pictures).then_some(found.numbers)
}
