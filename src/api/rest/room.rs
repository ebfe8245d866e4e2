//! Room for connections: a bounded number, whatever carries them, and idle ones make way for others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::activity::Activity;

/// How long a connection may do nothing before it makes way when there is no room for another.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// Connections that make way at a time: looking for them takes as long for many as for one.
const MAKE_WAY_MAX: usize = 64;
/// How long to wait before looking again, when none could make way.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where connections are counted.
#[derive(Debug)]
pub(super) struct Room {
    places: Arc<Semaphore>,
    taken: Mutex<Taken>,
    /// Ends every connection after the request in hand.
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: BTreeMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    activity: Activity,
    stop: CancellationToken,
}

/// One connection's place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) activity: Activity,
    /// Ends the connection after the request in hand. Its own, so that connections do not meet at one lock each time
    /// they look.
    pub(super) stop: CancellationToken,
    number: u64,
    room: Arc<Room>,
    _permit: OwnedSemaphorePermit,
}

impl Room {
    pub(super) fn new(connections_max: usize, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(connections_max)), taken: Mutex::default(), stop })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for room; when there is none, connections that only wait for their callers are closed. Cancel-safe.
    pub(super) async fn free(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
                return permit;
            }
            self.make_way();
            let freed = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(permit)) = tokio::time::timeout(LOOK_AGAIN, freed).await {
                return permit;
            }
        }
    }

    /// Takes a place for a connection that was just made.
    pub(super) fn enter(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        let (activity, stop) = (Activity::new(), self.stop.child_token());
        let mut taken = self.taken();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, Connection { activity: activity.clone(), stop: stop.clone() });
        drop(taken);
        Place { activity, stop, number, room: Arc::clone(self), _permit: permit }
    }

    /// Ends those that have been idle for longest.
    pub(super) fn make_way(&self) {
        let now = Instant::now();
        let chosen: Vec<_> = {
            let taken = self.taken();
            let idle = taken.connections.iter().filter_map(|(number, connection)| {
                let since = connection.activity.idle_since()?;
                let is_old = now.saturating_duration_since(since) >= IDLE_GRACE;
                (is_old && !connection.stop.is_cancelled()).then_some((since, *number))
            });
            let mut idle: Vec<_> = idle.collect();
            if idle.len() > MAKE_WAY_MAX {
                idle.select_nth_unstable(MAKE_WAY_MAX);
                idle.truncate(MAKE_WAY_MAX);
            }
            idle.iter().filter_map(|(_, number)| Some(taken.connections.get(number)?.stop.clone())).collect()
        };
        debug!(ended = chosen.len(), "no room for another connection, ending idle ones");
        for stop in chosen {
            stop.cancel();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.taken().connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn when_there_is_no_room_the_longest_idle_make_way_and_busy_ones_stay() {
        let room = Room::new(3, CancellationToken::new());
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(room.enter(room.free().await));
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        let busy = places[0].activity.busy();
        drop(places[2].activity.busy());

        // Only the second is idle and old enough.
        let waiting = room.free();
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        assert_eq!(
            places.iter().map(|place| place.stop.is_cancelled()).collect::<Vec<_>>(),
            [false, true, false]
        );
        drop(places.remove(1));
        let permit = waiting.await;

        // The third grows old while somebody waits.
        let fourth = room.enter(permit);
        let _still_busy = fourth.activity.busy();
        let waiting = room.free();
        tokio::pin!(waiting);
        let third = places[1].stop.clone();
        tokio::select! {
            _ = &mut waiting => panic!("there was no room"),
            () = third.cancelled() => {}
        }
        drop(places.remove(1));
        let _permit = waiting.await;
        assert!(!places[0].stop.is_cancelled());
        drop(busy);
        drop(places);
        drop(fourth);
        assert!(room.taken().connections.is_empty());
    }
}
