//! Adding once more what can be read again, when all who had its beginning failed.

use std::sync::Arc;

use tracing::warn;

use super::{COMPONENT, Host, Import};
use crate::adder::destinations::Destinations;
use crate::adder::{Content, Lines, Root};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{AddOptions, PeerId};

/// How often content is read from its beginning in one add.
const READS_MAX: usize = 4;

/// Puts content on its destinations. Gives its roots, and who is to pin them.
pub(super) async fn add(
    content: &mut (dyn Content + 'static),
    options: &AddOptions,
    host: &Arc<Host>,
    lines: &Lines,
    import: Import,
) -> Result<(Vec<Root>, Vec<PeerId>)> {
    let mut before: Option<Error> = None;
    for reads_left in (0..READS_MAX).rev() {
        let mut sink = Destinations::new(host.clone());
        let added = async {
            let roots = import(content, options, &mut sink, lines).await?;
            Ok::<_, Error>((roots, sink.finish().await?))
        };
        let error = match added.await {
            Ok(_) if before.is_some() && !lines.is_same() => {
                let text = "the content changed while it was read again, because the peers that had it failed; add it again";
                return Err(Error::new(ErrorKind::InvalidInput, text).component(COMPONENT));
            }
            Ok(added) => return Ok(added),
            // That nobody is left says less than why.
            Err(error) if error.kind() == ErrorKind::NotEnoughPeers => return Err(before.unwrap_or(error)),
            Err(error) => error,
        };
        let lost = sink.lost().filter(|_| reads_left > 0);
        let Some(lost) = lost.filter(|_| content.rewind()) else { return Err(error) };
        warn!(%error, ?lost, "nobody has all of the content; adding it again from its beginning, to other peers");
        host.avoid(lost);
        lines.begin_again();
        before = Some(error);
    }
    Err(before.unwrap_or_else(|| Error::internal("content was never read").component(COMPONENT)))
}
