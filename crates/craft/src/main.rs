//! The `craft` command: aligns text-to-image diffusion models with human preference.
//!
//! Results go to standard output, everything else to standard error.

mod cli;
mod commands;
mod console;
mod exit;
mod interrupt;
mod pocket_world;
mod progress;
mod samplers;
mod system;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    craft_nn::ops::keep_freed_memory();
    let cli = cli::Cli::parse();
    let level = console::Level::new(cli.global.verbose, cli.global.quiet);
    console::start_logging(level);
    let result = catch_unwind(AssertUnwindSafe(|| commands::dispatch(&cli, level)));
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            console::line(&format!("error: {}", exit::chain(&error)));
            ExitCode::from(exit::code(&error))
        }
        // The panic's own message has been printed.
        Err(_) => {
            console::line(
                "error: an internal error: please report it with the command and the message above",
            );
            ExitCode::from(exit::FAILED)
        }
    }
}
