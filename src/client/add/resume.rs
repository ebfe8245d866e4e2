//! CAR files whose upload goes on where an earlier one broke off.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use multihash_codetable::{Code, MultihashDigest as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::super::{Client, Request};
use super::walk::{self, CHUNK_BYTES, Which};
use super::{Given, Upload};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{AddFormat, AddOptions, CarDigest, CarWalk, InterruptedAdd, Resume, ResumeKey};

/// How long a peer may take to end an upload that broke off: longer than it waits for a destination.
const ENDING_TIMEOUT: Duration = Duration::from_secs(330);
/// How often it is asked meanwhile.
const ENDING_WAIT: Duration = Duration::from_millis(250);

/// A CAR file, or what is left to upload of it.
#[derive(Debug)]
#[must_use = "an upload is nothing until it is added"]
pub struct ResumableCar {
    /// What is to be sent.
    pub upload: Upload,
    /// How it is added: the options that were given, and where the upload begins.
    pub options: AddOptions,
    /// Where in the file the upload begins, in bytes.
    pub offset: u64,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Why it begins anew although an upload of such a file broke off.
    pub anew_because: Option<&'static str>,
}

impl Client {
    /// An upload that broke off and can go on; none for a key that is not known, or not any more. Peers of the reference
    /// (1.1.6) know none. Errors are those of the [module documentation](crate::client), and `Conflict` while the upload runs or
    /// is being ended.
    pub async fn interrupted_add(&self, key: &ResumeKey) -> Result<Option<InterruptedAdd>> {
        match self.fetch(&Request::interrupted_add(key)).await {
            Ok(add) => Ok(Some(add)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A CAR file for [`Client::add`], from where its last upload to the same peer with the same replication factors,
    /// allocations and `local` broke off. Where none is known, or the file has changed since, all of it. When this
    /// upload breaks off too, it can go on in the same way. With peers of the reference (1.1.6) it always begins anew.
    ///
    /// What of the file arrived already is not read again but for the CIDs of its blocks, by which it is known. While the
    /// peer is still busy with the last upload, which it ends at its leisure, this waits.
    ///
    /// ```no_run
    /// use futures::TryStreamExt as _;
    /// use ipfs_cluster::client::Client;
    /// use ipfs_cluster::types::AddOptions;
    ///
    /// # async fn run(client: Client) -> ipfs_cluster::Result<()> {
    /// let car = client.resumable_car("backup.car", &AddOptions::default()).await?;
    /// println!("{} of {} bytes are there already", car.offset, car.bytes);
    /// let added: Vec<_> = client.add(car.upload, &car.options).try_collect().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As in the [module documentation](crate::client); `NotFound`, `Io` and `InvalidInput` for a file that cannot be read, or
    /// is no CAR; `Conflict` when another upload of the same file is running.
    pub async fn resumable_car(
        &self,
        path: impl Into<PathBuf>,
        options: &AddOptions,
    ) -> Result<ResumableCar> {
        let mut options = AddOptions { format: AddFormat::Car, ..options.clone() };
        let (file, of) = (path.into(), options.clone());
        let Looked { path, key, bytes } = blocking(move || look(&file, &of)).await?;
        let (mut offset, mut anew_because) = (0, None);
        if let Some(known) = self.ended_add(&key).await? {
            let (file, at) = (path.clone(), known.offset);
            match blocking(move || digest_at(&file, at)).await? {
                Some(digest) if digest == known.digest && at <= bytes => offset = at,
                _ => anew_because = Some("the file has changed since its upload broke off"),
            }
        }
        options.resume = Some(Resume { key, offset });
        let upload =
            Upload { given: vec![Given::Rest { path, from: offset, to: bytes }], ..Upload::default() };
        Ok(ResumableCar { upload, options, offset, bytes, anew_because })
    }

    /// As [`interrupted_add`](Self::interrupted_add), once the peer has ended it.
    async fn ended_add(&self, key: &ResumeKey) -> Result<Option<InterruptedAdd>> {
        let asked = Instant::now();
        loop {
            match self.interrupted_add(key).await {
                Err(error) if error.kind() == ErrorKind::Conflict && asked.elapsed() < ENDING_TIMEOUT => {
                    sleep(ENDING_WAIT).await;
                }
                found => return found,
            }
        }
    }
}

/// What a file is.
struct Looked {
    path: PathBuf,
    key: ResumeKey,
    bytes: u64,
}

/// The key is made of what tells files and places apart at a glance: the header and the length of the CAR, and where its
/// blocks shall go. Whether it is the same file in all of the part that arrived is found out by its digest.
fn look(path: &Path, options: &AddOptions) -> Result<Looked> {
    let path = walk::named(path)?.path;
    walk::check(&path, Which::default())?;
    let file = open(&path)?;
    let there = file.metadata().map_err(|error| Error::io(format!("stat {}", path.display()), error))?;
    if !there.is_file() {
        let text = format!("{} is no file that can be read from the middle", path.display());
        return Err(Error::invalid_input(text).component("client"));
    }
    let bytes = there.len();
    let digest = CarWalk::new(file).map_err(|error| of_file(&path, error))?.digest();
    let pin = &options.pin;
    let identity = format!(
        "{digest} {bytes} {} {} {:?} {}",
        pin.replication_factor_min, pin.replication_factor_max, pin.user_allocations, options.local
    );
    let key = hex::encode(Code::Sha2_256.digest(identity.as_bytes()).digest()).parse()?;
    Ok(Looked { path, key, bytes })
}

/// What stands in a CAR before this place; none where no block ends there.
fn digest_at(path: &Path, offset: u64) -> Result<Option<CarDigest>> {
    let mut walk = CarWalk::new(open(path)?).map_err(|error| of_file(path, error))?;
    while walk.position() < offset {
        if !walk.step().map_err(|error| of_file(path, error))? {
            return Ok(None);
        }
    }
    Ok((walk.position() == offset).then(|| walk.digest()))
}

/// Hands on a part of a file.
pub(super) fn send(path: &Path, from: u64, to: u64, chunks: &mpsc::Sender<Bytes>) -> Result<()> {
    let failed = |error| Error::io(format!("read {}", path.display()), error);
    let mut file = open(path)?;
    file.seek(SeekFrom::Start(from)).map_err(failed)?;
    let mut part = file.take(to.saturating_sub(from));
    while part.limit() > 0 {
        let room = usize::try_from(part.limit()).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let mut chunk = BytesMut::zeroed(room);
        let read = match part.read(&mut chunk) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            read => read.map_err(failed)?,
        };
        if read == 0 {
            let text = format!("{} became shorter while it was sent", path.display());
            return Err(Error::new(ErrorKind::Conflict, text).component("client"));
        }
        chunk.truncate(read);
        let gone = |_| Error::new(ErrorKind::Cancelled, "the upload was given up").component("client");
        chunks.blocking_send(chunk.freeze()).map_err(gone)?;
    }
    Ok(())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| Error::io(format!("open {}", path.display()), error).component("client"))
}

fn of_file(path: &Path, error: Error) -> Error {
    error.context(path.display())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::internal(format!("looking at a file ended: {error}")).component("client"))?
}

#[cfg(test)]
mod tests;
