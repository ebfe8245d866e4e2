//! `ipfs-cluster-ctl`: the cluster on the command line, over its REST API.

mod add;
mod args;
mod commands;
mod failure;
mod format;
mod output;
mod progress;
mod wait;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    if cli.debug {
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter("ipfs_cluster=debug").init();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut output = output::Output::stdout();
    let result = runtime.block_on(commands::run(cli, &mut output));
    // A name that is still being resolved must not keep the program alive.
    runtime.shutdown_background();
    output.finish(result)
}
