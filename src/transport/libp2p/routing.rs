//! Questions to the directories: where a peer is, who has content.

use std::collections::BTreeSet;

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{
    Event, GetClosestPeersError, GetProvidersOk, InboundRequest, ProgressStep, QueryId, QueryResult,
    RecordKey,
};
use tokio::sync::oneshot;
use tracing::debug;

use super::COMPONENT;
use super::directory::{self, Directory};
use super::swarm::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::PROVIDERS_MAX;
use crate::types::PeerId;

/// Questions that are asked at a time.
const QUESTIONS_MAX: usize = 1_024;

/// Which directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Which {
    Lan,
    Wan,
}

const BOTH: [Which; 2] = [Which::Lan, Which::Wan];

/// What a query is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Find(PeerId),
    Answer(u64),
}

/// A caller that waits for the directories.
#[derive(Debug)]
pub(super) struct Question {
    /// Directories that have not answered.
    open: usize,
    /// One at least took our word.
    was_told: bool,
    found: BTreeSet<PeerId>,
    reply: Answer,
}

#[derive(Debug)]
pub(super) enum Answer {
    Told(oneshot::Sender<Result<()>>),
    Found(oneshot::Sender<Result<Vec<PeerId>>>),
}

impl Answer {
    fn fail(self, error: Error) {
        match self {
            Self::Told(reply) => drop(reply.send(Err(error))),
            Self::Found(reply) => drop(reply.send(Err(error))),
        }
    }
}

impl Task {
    fn directory(&mut self, which: Which) -> Option<&mut Directory> {
        let host = self.swarm.behaviour_mut();
        match which {
            Which::Lan => host.lan.as_mut(),
            Which::Wan => host.wan.as_mut(),
        }
    }

    /// Asks where a peer is, and says how many directories were asked.
    pub(super) fn search(&mut self, peer: PeerId) -> usize {
        let mut asked = 0;
        for which in BOTH {
            let Some(directory) = self.directory(which) else { continue };
            if directory::is_empty(directory) {
                continue;
            }
            let id = directory.get_closest_peers(peer);
            self.queries.insert((which, id), Purpose::Find(peer));
            asked += 1;
        }
        asked
    }

    pub(super) fn refresh_directories(&mut self) {
        for which in BOTH {
            if let Some(directory) = self.directory(which) {
                // Nobody to ask is fine.
                let _ = directory.bootstrap();
            }
        }
    }

    /// Asks the directories about content, or tells them.
    pub(super) fn ask_about(&mut self, key: Vec<u8>, reply: Answer) {
        let key = RecordKey::from(key);
        if BOTH.iter().all(|which| self.directory(*which).is_none()) {
            let text = "the directories of content are switched off";
            return reply.fail(Error::new(ErrorKind::Unsupported, text).component(COMPONENT));
        }
        if self.questions.len() >= QUESTIONS_MAX {
            let text = format!("{QUESTIONS_MAX} questions are being asked already, try later");
            return reply.fail(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
        }
        let is_telling = matches!(reply, Answer::Told(_));
        let number = self.next_question;
        self.next_question += 1;
        let mut open = 0;
        for which in BOTH {
            let Some(directory) = self.directory(which) else { continue };
            // Asking ourselves is still worth it: others leave their word with us.
            if is_telling && directory::is_empty(directory) {
                continue;
            }
            let id = if is_telling {
                match directory.start_providing(key.clone()) {
                    Ok(id) => id,
                    Err(error) => {
                        debug!(%error, "telling a directory failed");
                        continue;
                    }
                }
            } else {
                directory.get_providers(key.clone())
            };
            self.queries.insert((which, id), Purpose::Answer(number));
            open += 1;
        }
        if open == 0 {
            let text = "nobody is known who keeps a directory of content";
            return reply.fail(Error::new(ErrorKind::Unavailable, text).component(COMPONENT));
        }
        self.questions.insert(number, Question { open, was_told: false, found: BTreeSet::new(), reply });
    }

    pub(super) fn on_directory(&mut self, which: Which, event: Event) {
        match event {
            Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                if let Some(directory) = self.directory(which)
                    && let Err(error) = directory.store_mut().add_provider(record)
                {
                    debug!(%error, "a provider's word was not kept");
                }
            }
            Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_query(which, id, result, &step)
            }
            _ => {}
        }
    }

    fn on_query(&mut self, which: Which, id: QueryId, result: QueryResult, step: &ProgressStep) {
        let Some(purpose) = self.queries.get(&(which, id)).copied() else { return };
        if step.last {
            self.queries.remove(&(which, id));
        }
        match (purpose, result) {
            (Purpose::Find(peer), QueryResult::GetClosestPeers(result)) => {
                let peers = match result {
                    Ok(found) => found.peers,
                    Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
                };
                let found = peers.into_iter().find(|found| found.peer_id == peer);
                if step.last || found.is_some() {
                    // Only once for each query.
                    self.queries.remove(&(which, id));
                    self.found(peer, found.map(|found| found.addrs).unwrap_or_default());
                }
            }
            (Purpose::Answer(number), result) => {
                let Some(question) = self.questions.get_mut(&number) else { return };
                match result {
                    QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                        question.found.extend(providers);
                    }
                    QueryResult::StartProviding(result) => question.was_told |= result.is_ok(),
                    _ => {}
                }
                question.found.remove(&self.shared.peer);
                if step.last {
                    question.open -= 1;
                }
                if question.open == 0 || question.found.len() >= PROVIDERS_MAX {
                    self.answer(number);
                }
            }
            (Purpose::Find(_), _) => {}
        }
    }

    fn answer(&mut self, number: u64) {
        let Some(question) = self.questions.remove(&number) else { return };
        match question.reply {
            Answer::Told(reply) => {
                let result = if question.was_told {
                    Ok(())
                } else {
                    let text = "no directory took our word in time, try later";
                    Err(Error::new(ErrorKind::Timeout, text).component(COMPONENT))
                };
                let _ = reply.send(result);
            }
            Answer::Found(reply) => {
                let _ = reply.send(Ok(question.found.into_iter().take(PROVIDERS_MAX).collect()));
            }
        }
        // What is left of its queries ends by itself, within its time.
    }
}
