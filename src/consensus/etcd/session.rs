//! Being a member: a lease that is kept alive, and a sign of life that goes the whole way through etcd and back.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::COMPONENT;
use super::gateway::{Failure, refused};
use super::lane::{Done, Lane, Work};
use super::meet;
use super::shared::{Shared, Standing};
use super::wire::{Compare, Grant, Int, LeaseAnswer, LeaseId, Line, Op, OpAnswer, Txn};
use crate::error::{Error, ErrorKind, Result};

/// The lane of the session; those of the writer have other numbers.
const LANE: usize = 0;
/// After a failure it is tried again soon.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long etcd may take to hear that we are gone; after that the lease runs out.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps this peer a member until it is stopped, and ends the lease then.
pub(super) async fn run(shared: &Shared, stop: CancellationToken) {
    let mut lane = Lane::new(LANE);
    let mut is_down = false;
    loop {
        let beat = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            beat = beat(shared, &mut lane) => beat,
        };
        let pause = match beat {
            Ok(()) => {
                if std::mem::take(&mut is_down) {
                    info!(component = COMPONENT, "etcd answers again");
                }
                shared.standing.send_replace(Standing::Joined);
                shared.lease_ttl / 3
            }
            Err(error) => {
                if is_down {
                    debug!(component = COMPONENT, %error, "still cannot say that this peer lives");
                } else {
                    warn!(component = COMPONENT, %error, "could not say that this peer lives; trying again");
                }
                is_down = true;
                let interval = shared.lease_ttl / 3;
                let is_soon = error.is_temporary() || is_waiting(shared, &error);
                let pause = if is_soon { RETRY_PAUSE.min(interval) } else { interval };
                note(shared, error);
                pause
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = shared.lapsed.notified() => {}
            () = sleep(pause) => {}
        }
    }
    let lease = *shared.lease.borrow();
    if let Some(lease) = lease {
        let asked = LeaseId { id: Int(lease) };
        let deadline = tokio::time::Instant::now() + REVOKE_TIMEOUT;
        let revoked = shared.gateway.call::<LeaseAnswer>("/v3/lease/revoke", &asked, deadline);
        if !matches!(timeout(REVOKE_TIMEOUT, revoked).await, Ok(Ok(_))) {
            debug!(component = COMPONENT, "etcd does not hear that this peer stops; its lease will run out");
        }
    }
}

/// What keeps a peer from ever starting is told to who waits for that.
fn note(shared: &Shared, error: Error) {
    // Somebody will make room.
    let may_pass =
        error.is_temporary() || matches!(error.kind(), ErrorKind::Internal | ErrorKind::StorageFull);
    let is_final = !may_pass && !is_waiting(shared, &error);
    shared.standing.send_if_modified(|standing| {
        let is_starting = !matches!(standing, Standing::Joined);
        if is_starting && is_final {
            *standing = Standing::Refused(error);
        }
        is_starting && is_final
    });
}

/// Whether this is what a peer is told that waits to be added again.
fn is_waiting(shared: &Shared, error: &Error) -> bool {
    shared.waits_to_be_added && error.kind() == ErrorKind::Conflict
}

async fn beat(shared: &Shared, lane: &mut Lane) -> Result<()> {
    if shared.is_leaving() {
        return Ok(());
    }
    let lease = keep_alive(shared).await.map_err(Failure::into_error)?;
    let addresses = shared.transport.as_ref().map(|transport| transport.announced_addresses());
    let addresses = addresses.map(|addresses| meet::encode(&addresses)).unwrap_or_default();
    let mut ops = vec![Op::put_leased(shared.keys.peer(&shared.peer), addresses, lease)];
    let is_member =
        shared.roster.borrow().as_ref().is_some_and(|roster| roster.members.contains(&shared.peer));
    if !is_member {
        ops.push(Op::put(shared.keys.member(&shared.peer), Vec::new()));
    }
    let deadline = shared.deadline();
    let work = Work { ops, lease: Some(lease), ..Work::default() };
    match lane.commit(shared, work, deadline).await.map_err(Failure::into_error)? {
        Done::Committed { revision, .. } => shared.wait_applied(revision, deadline).await,
        Done::Unmet => Err(Error::internal("a write without conditions did not happen").component(COMPONENT)),
    }
}

/// The lease, prolonged, or a new one.
async fn keep_alive(shared: &Shared) -> Result<i64, Failure> {
    let known = *shared.lease.borrow();
    if let Some(lease) = known {
        let asked = LeaseId { id: Int(lease) };
        let answer: Line<LeaseAnswer> =
            shared.gateway.call("/v3/lease/keepalive", &asked, shared.deadline()).await?;
        match answer {
            Line::Result(answer) if answer.ttl.0 > 0 => return Ok(lease),
            _ => warn!(component = COMPONENT, "etcd gave up the lease of this peer; taking another one"),
        }
    }
    claim(shared).await?;
    let seconds = i64::try_from(shared.lease_ttl.as_secs()).unwrap_or(i64::MAX);
    let answer: LeaseAnswer =
        shared.gateway.call("/v3/lease/grant", &Grant { ttl: Int(seconds) }, shared.deadline()).await?;
    shared.lease.send_replace(Some(answer.id.0));
    Ok(answer.id.0)
}

/// Has etcd say that these keys are of this cluster, if it does not say so already.
///
/// # Errors
/// `InvalidInput` where they are of another one.
async fn claim(shared: &Shared) -> Result<(), Failure> {
    let key = shared.keys.cluster();
    let own = shared.cluster.as_deref();
    let txn = Txn {
        compare: vec![Compare::absent(key.clone())],
        success: own.iter().map(|own| Op::put(key.clone(), own.as_bytes().to_vec())).collect(),
        failure: vec![Op::get(key.clone())],
    };
    let answer = shared.gateway.txn(&txn, shared.deadline()).await?;
    let found = answer.responses.iter().flat_map(OpAnswer::kvs).next();
    if answer.succeeded || found.is_some_and(|found| Some(&found.value.0[..]) == own.map(str::as_bytes)) {
        return Ok(());
    }
    let prefix = shared.keys.prefix().trim_end_matches('/');
    let key = String::from_utf8_lossy(&key).into_owned();
    Err(refused(Error::invalid_input(format!(
        "below {prefix} etcd has the pinset of a cluster with another secret: give this cluster another \
         etcd.cluster_name, or this peer the cluster.secret of the others. If the secret of all of them was changed, \
         remove the key {key} from etcd"
    ))))
}
