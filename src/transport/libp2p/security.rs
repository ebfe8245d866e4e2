//! Noise or TLS, whichever the other side takes; Noise is offered first.

use std::error::Error as StdError;
use std::io;

use futures::future::{BoxFuture, Either, FutureExt as _};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};

use crate::types::PeerId;

type Failure = Box<dyn StdError + Send + Sync>;

/// Two ways to secure a connection, the preferred one first.
#[derive(Clone)]
pub(super) struct Security<A, B> {
    first: A,
    second: B,
}

/// Which of the two a name belongs to.
#[derive(Clone)]
pub(super) enum Name<A, B> {
    First(A),
    Second(B),
}

impl<A: AsRef<str>, B: AsRef<str>> AsRef<str> for Name<A, B> {
    fn as_ref(&self) -> &str {
        match self {
            Self::First(name) => name.as_ref(),
            Self::Second(name) => name.as_ref(),
        }
    }
}

impl<A, B> Security<A, B> {
    pub(super) fn new(first: A, second: B) -> Self {
        Self { first, second }
    }
}

impl<A: UpgradeInfo, B: UpgradeInfo> UpgradeInfo for Security<A, B> {
    type Info = Name<A::Info, B::Info>;
    type InfoIter = std::vec::IntoIter<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        let first = self.first.protocol_info().into_iter().map(Name::First);
        let second = self.second.protocol_info().into_iter().map(Name::Second);
        first.chain(second).collect::<Vec<_>>().into_iter()
    }
}

type Secured<X, Y> = io::Result<(PeerId, Either<X, Y>)>;

macro_rules! upgrade {
    ($trait:ident, $method:ident) => {
        impl<C, A, B, X, Y> $trait<C> for Security<A, B>
        where
            A: $trait<C, Output = (PeerId, X)>,
            B: $trait<C, Output = (PeerId, Y)>,
            A::Future: Send + 'static,
            B::Future: Send + 'static,
            A::Error: Into<Failure> + 'static,
            B::Error: Into<Failure> + 'static,
            X: Send + 'static,
            Y: Send + 'static,
        {
            type Output = (PeerId, Either<X, Y>);
            type Error = io::Error;
            type Future = BoxFuture<'static, Secured<X, Y>>;

            fn $method(self, carrier: C, name: Self::Info) -> Self::Future {
                match name {
                    Name::First(name) => {
                        let secured = self.first.$method(carrier, name);
                        async move {
                            secured.await.map(|(peer, io)| (peer, Either::Left(io))).map_err(io::Error::other)
                        }
                        .boxed()
                    }
                    Name::Second(name) => {
                        let secured = self.second.$method(carrier, name);
                        async move {
                            secured
                                .await
                                .map(|(peer, io)| (peer, Either::Right(io)))
                                .map_err(io::Error::other)
                        }
                        .boxed()
                    }
                }
            }
        }
    };
}

upgrade!(InboundConnectionUpgrade, upgrade_inbound);
upgrade!(OutboundConnectionUpgrade, upgrade_outbound);
