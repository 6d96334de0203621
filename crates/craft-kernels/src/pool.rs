//! Helper threads that wait close by for the next operation.
//!
//! A step of a small network is hundreds of operations of a fraction of a millisecond, and handing
//! each to a pool whose threads sleep costs as much as many of them take. Here the caller works
//! too, helpers look out for the next operation for a while before they sleep, and the caller waits
//! only for helpers that have begun a task.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a helper looks out for the next operation before it sleeps.
const LOOK_OUT: Duration = Duration::from_micros(50);
/// Looks between two readings of the clock.
const LOOKS: usize = 32;
/// Looks of a caller that waits for the helpers' last tasks, before it lets other threads have its
/// processor.
const AWHILE: usize = 1 << 11;

/// Tasks `0..tasks`, taken one after another by whoever is free.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Job<'_> {
    fn work(&self) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            (self.run)(task);
        }
    }
}

/// Helpers inside the job.
const INSIDE: u64 = 0xFFFF;
/// Whether helpers may enter.
const OPEN: u64 = 1 << 16;
/// Step of the number of the job, which is in the upper half.
const NUMBER: u64 = 1 << 32;

/// The helpers and the job they work at.
struct Pool {
    helpers: usize,
    /// Number of the job, [`OPEN`], and helpers [`INSIDE`].
    gate: AtomicU64,
    /// Where the job is while the gate is open or somebody is inside.
    job: AtomicPtr<Job<'static>>,
    /// Whether a caller has the helpers.
    taken: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    alarm: Condvar,
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// As many threads altogether as rayon's global pool has.
fn pool() -> &'static Pool {
    static START: std::sync::Once = std::sync::Once::new();
    let pool = POOL.get_or_init(|| Pool {
        helpers: rayon::current_num_threads().saturating_sub(1).min(INSIDE as usize),
        gate: AtomicU64::new(0),
        job: AtomicPtr::new(std::ptr::null_mut()),
        taken: AtomicBool::new(false),
        sleepers: AtomicUsize::new(0),
        bed: Mutex::new(()),
        alarm: Condvar::new(),
    });
    START.call_once(|| {
        for i in 0..pool.helpers {
            // Where the system gives no more threads, the others do the work.
            let name = format!("kernels-{i}");
            drop(std::thread::Builder::new().name(name).spawn(move || pool.help()));
        }
    });
    pool
}

/// Runs `f(0) .. f(tasks - 1)` on this thread and the helpers. Returns `false`, and runs nothing,
/// where another thread has the helpers.
pub(crate) fn run(tasks: usize, f: &(dyn Fn(usize) + Sync)) -> bool {
    let pool = pool();
    if pool.taken.swap(true, Ordering::Acquire) {
        return false;
    }
    let job = Job { run: f, tasks, next: AtomicUsize::new(0), panic: Mutex::new(None) };
    {
        let _open = pool.open(&job);
        job.work();
    }
    let panic = job.panic.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
    true
}

/// Closes the gate and waits until nobody is inside, also where the caller's own task panics.
struct Open(&'static Pool);

impl Drop for Open {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        gate.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0;
        while gate.load(Ordering::Acquire) & INSIDE != 0 {
            if looks < AWHILE {
                looks += 1;
                std::hint::spin_loop();
            } else {
                // A helper may wait for this very processor.
                std::thread::yield_now();
            }
        }
        self.0.taken.store(false, Ordering::Release);
    }
}

impl Pool {
    /// Shows the job to the helpers until the returned value is dropped. The caller has `taken` the
    /// helpers.
    fn open(&'static self, job: &Job<'_>) -> Open {
        self.job.store(std::ptr::from_ref(job).cast_mut().cast(), Ordering::Relaxed);
        let number = self.gate.load(Ordering::Relaxed) / NUMBER;
        let gate = (number.wrapping_add(1) * NUMBER) | OPEN;
        // Sequentially consistent with the counting of sleepers: either a helper sees the job
        // before it sleeps, or this sees the sleeper.
        self.gate.store(gate, Ordering::SeqCst);
        let open = Open(self);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(self.bed.lock());
            self.alarm.notify_all();
        }
        open
    }

    /// The gate, where a job other than number `last` may be entered.
    fn new_job(&self, last: u64) -> Option<u64> {
        let gate = self.gate.load(Ordering::SeqCst);
        (gate & OPEN != 0 && gate / NUMBER != last).then_some(gate)
    }

    /// A helper's life.
    fn help(&self) {
        let mut last = 0;
        loop {
            let gate = self.wait(last);
            let enter =
                self.gate.compare_exchange(gate, gate + 1, Ordering::Acquire, Ordering::Relaxed);
            if enter.is_err() {
                continue;
            }
            last = gate / NUMBER;
            // SAFETY: the pointer was stored before the gate was opened under this number, and the
            // caller neither leaves
            // `run` nor opens another job before all who entered have left.
            let job = unsafe { &*self.job.load(Ordering::Relaxed) };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| job.work())) {
                *job.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
            self.gate.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits, awake at first, for a job other than number `last`.
    fn wait(&self, last: u64) -> u64 {
        let start = Instant::now();
        while start.elapsed() < LOOK_OUT {
            for _ in 0..LOOKS {
                if let Some(gate) = self.new_job(last) {
                    return gate;
                }
                std::hint::spin_loop();
            }
        }
        let mut bed = self.bed.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let gate = loop {
            if let Some(gate) = self.new_job(last) {
                break gate;
            }
            bed = self.alarm.wait(bed).unwrap_or_else(PoisonError::into_inner);
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        gate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(tasks: usize) -> Vec<AtomicUsize> {
        (0..tasks).map(|_| AtomicUsize::new(0)).collect()
    }

    /// Runs all tasks, and without the helpers if a test that runs at the same time has them.
    fn run_all(tasks: usize, f: &(dyn Fn(usize) + Sync)) {
        if !run(tasks, f) {
            (0..tasks).for_each(f);
        }
    }

    #[test]
    fn every_task_runs_once_whoever_runs_it() {
        for round in 0..2000 {
            let seen = counts(round % 67);
            run_all(seen.len(), &|i| {
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "round {round}");
            if round % 200 == 0 {
                // Long enough for the helpers to fall asleep.
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }

    #[test]
    fn callers_side_by_side_and_within_tasks_do_not_wait_for_each_other() {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let seen = counts(20);
                        run_all(4, &|i| {
                            run_all(5, &|j| {
                                seen[i * 5 + j].fetch_add(1, Ordering::Relaxed);
                            });
                        });
                        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_helpers_go_on() {
        for bad in 0..40 {
            let outcome = catch_unwind(|| run_all(40, &|i| assert_ne!(i, bad, "task {bad}")));
            assert!(outcome.is_err(), "task {bad} panicked unseen");
        }
        let seen = counts(40);
        run_all(40, &|i| {
            seen[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
    }
}
