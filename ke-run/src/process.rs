//! The outermost frame of a binary: a runtime, one future, an exit code.
//! Called by each `main` once, after its arguments and configuration were read.

use std::future::Future;
use std::process::ExitCode;

use crate::memory;

/// Runs `body` to its end and turns its error into one line on standard error and exit code 1.
/// Blocking work that is still going on (a DNS lookup, a database write) is left behind, not waited for: the
/// supervisor has given it its time already.
pub fn run(body: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(cause) => return fail(&anyhow::Error::new(cause).context("start the async runtime")),
    };
    runtime.spawn(memory::give_back());
    let outcome = runtime.block_on(body);
    runtime.shutdown_background();
    outcome.map_or_else(|failure| fail(&failure), |()| ExitCode::SUCCESS)
}

/// Says why the process ends, with all causes in one line.
#[must_use]
pub fn fail(failure: &anyhow::Error) -> ExitCode {
    eprintln!("error: {failure:#}");
    ExitCode::FAILURE
}
