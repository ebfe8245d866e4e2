//! Writes what each decoder begins with to `<folder>/<decoder>/`, and says the names of the decoders, one a line. What
//! the fuzzer found and put there stays.

use std::path::PathBuf;
use std::process::ExitCode;
use std::{env, fs, io};

use ipfs_cluster::testing::decoders;

fn main() -> ExitCode {
    let Some(folder) = env::args_os().nth(1) else {
        eprintln!("usage: corpus FOLDER");
        return ExitCode::FAILURE;
    };
    match write(folder.into()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: the corpus cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(folder: PathBuf) -> io::Result<()> {
    for decoder in decoders::all() {
        let folder = folder.join(decoder.name);
        fs::create_dir_all(&folder)?;
        for (index, bytes) in (decoder.corpus)().into_iter().enumerate() {
            fs::write(folder.join(format!("given-{index:03}")), bytes)?;
        }
        println!("{}", decoder.name);
    }
    Ok(())
}
