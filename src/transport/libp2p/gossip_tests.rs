use libp2p::gossipsub::TopicHash;
use prost::Message as _;

use super::*;

/// The frames of the reference, as its descriptions have them.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Rpc {
        #[prost(message, repeated, tag = "1")]
        pub(super) subscriptions: Vec<Subscription>,
        #[prost(message, repeated, tag = "2")]
        pub(super) publish: Vec<Signed>,
        #[prost(message, optional, tag = "3")]
        pub(super) control: Option<Control>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Subscription {
        #[prost(bool, optional, tag = "1")]
        pub(super) subscribe: Option<bool>,
        #[prost(string, optional, tag = "2")]
        pub(super) topic: Option<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Signed {
        #[prost(bytes = "vec", optional, tag = "1")]
        pub(super) from: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "2")]
        pub(super) data: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "3")]
        pub(super) number: Option<Vec<u8>>,
        #[prost(string, optional, tag = "4")]
        pub(super) topic: Option<String>,
        #[prost(bytes = "vec", optional, tag = "5")]
        pub(super) signature: Option<Vec<u8>>,
        #[prost(bytes = "vec", optional, tag = "6")]
        pub(super) key: Option<Vec<u8>>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Control {
        #[prost(message, repeated, tag = "3")]
        pub(super) graft: Vec<Graft>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Graft {
        #[prost(string, optional, tag = "1")]
        pub(super) topic: Option<String>,
    }
}

fn vectors() -> BTreeMap<String, (Vec<u8>, serde_json::Value)> {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let ours = vectors.filter(|vector| vector["name"].as_str().unwrap().starts_with("gossipsub/"));
    ours.map(|vector| {
        let bytes = hex::decode(vector["hex"].as_str().unwrap()).unwrap();
        (vector["name"].as_str().unwrap().to_owned(), (bytes, vector["decoded"].clone()))
    })
    .collect()
}

fn to_libp2p(message: &wire::Signed) -> Message {
    Message {
        source: Some(PeerId::from_bytes(message.from.as_deref().unwrap()).unwrap()),
        data: message.data.clone().unwrap(),
        sequence_number: message.number.clone().map(|bytes| u64::from_be_bytes(bytes.try_into().unwrap())),
        topic: TopicHash::from_raw(message.topic.clone().unwrap()),
    }
}

#[test]
fn messages_of_the_reference_have_its_ids_and_signatures() {
    let mut vectors = vectors();
    let (signed, decoded) = vectors.remove("gossipsub/signed-message").unwrap();
    let message = wire::Signed::decode(signed.as_slice()).unwrap();
    assert_eq!(hex::encode(&message_id(&to_libp2p(&message)).0), decoded["message_id_hex"].as_str().unwrap());
    let signer = PeerId::from_bytes(message.from.as_deref().unwrap()).unwrap();
    assert_eq!(signer.to_string(), decoded["from"].as_str().unwrap());
    assert_eq!(message.key.is_some(), decoded["has_key"].as_bool().unwrap());
    // The key is in the id, after the two bytes of its multihash.
    let key = libp2p_identity::PublicKey::try_decode_protobuf(&signer.to_bytes()[2..]).unwrap();
    let mut unsigned = message.clone();
    unsigned.signature = None;
    let text = [b"libp2p-pubsub:".as_slice(), &unsigned.encode_to_vec()].concat();
    assert_eq!(hex::encode(&text), decoded["signed_bytes_hex"].as_str().unwrap());
    assert!(key.verify(&text, message.signature.as_deref().unwrap()));

    let mut visited = 0;
    for (name, (bytes, _)) in &vectors {
        let (length, frame) = bytes.split_at(if bytes[0] & 0x80 == 0 { 1 } else { 2 });
        let length = length.iter().rev().fold(0, |sum, byte| (sum << 7) | usize::from(byte & 0x7f));
        assert_eq!(frame.len(), length, "{name}");
        let frame = wire::Rpc::decode(frame).unwrap();
        match name.as_str() {
            "gossipsub/frame-0" => {
                assert_eq!(frame.subscriptions[0].subscribe, Some(true));
                assert_eq!(frame.subscriptions[0].topic.as_deref(), Some("monitor.metrics"));
            }
            "gossipsub/frame-1" => assert_eq!(frame.publish, std::slice::from_ref(&message)),
            "gossipsub/frame-2" => {
                let graft = &frame.control.as_ref().unwrap().graft;
                assert_eq!(graft[0].topic.as_deref(), Some("monitor.metrics"));
            }
            _ => panic!("{name} is new"),
        }
        visited += 1;
    }
    assert_eq!(visited, 3);
}

#[test]
fn settings_are_those_of_the_reference() {
    let settings = settings(&Libp2pConfig::default()).unwrap();
    assert_eq!(
        (settings.mesh_n(), settings.mesh_n_low(), settings.mesh_n_high(), settings.mesh_outbound_min()),
        (24, 20, 48, 8)
    );
    assert_eq!((settings.gossip_lazy(), settings.retain_scores()), (24, 16));
    assert_eq!((settings.history_length(), settings.history_gossip()), (6, 2));
    assert_eq!((settings.max_transmit_size(), settings.max_control_message_size()), (1 << 20, 1 << 20));
    assert_eq!(settings.heartbeat_interval().as_secs(), 10);
    assert_eq!(settings.duplicate_cache_time().as_secs(), 1800);
    assert!(settings.do_px() && settings.validate_messages() && !settings.flood_publish());
    assert!(matches!(settings.validation_mode(), ValidationMode::Strict));
    for d_factor in [1, 2, 100] {
        let mut config = Libp2pConfig::default();
        config.gossip.d_factor = d_factor;
        super::settings(&config).unwrap();
    }
}

#[test]
fn an_id_is_made_of_any_message() {
    let message =
        |source| Message { source, data: Vec::new(), sequence_number: None, topic: TopicHash::from_raw("t") };
    assert_eq!(message_id(&message(None)).0, [0; 8]);
    let short = PeerId::from_bytes(&[0, 1, 7]).unwrap();
    assert_eq!(message_id(&message(Some(short))).0, [0, 1, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn one_rejection_or_ignorance_decides_for_all() {
    use Verdict::{Accept, Ignore, Reject};
    for (verdicts, expected) in [
        (&[][..], Ignore),
        (&[Accept], Accept),
        (&[Accept, Accept], Accept),
        (&[Accept, Ignore], Ignore),
        (&[Accept, Ignore, Reject], Reject),
    ] {
        assert_eq!(together(verdicts), expected, "{verdicts:?}");
    }
}

#[derive(Debug)]
struct Judge(fn() -> Verdict);

impl MessageValidator for Judge {
    fn validate(&self, _: &PeerId, _: &[u8]) -> Verdict {
        (self.0)()
    }
}

#[test]
fn subscriptions_get_what_they_accept_and_a_panic_ignores() {
    let topic = Topic::new("t");
    let signer = PeerId::from_bytes(&[0, 1, 7]).unwrap();
    let message = GossipMessage { signer, from: signer, data: Bytes::from_static(b"x") };
    let mut subscriptions = Subscriptions::default();
    let mut accepting = subscriptions.add(&topic, Arc::new(Judge(|| Verdict::Accept)));
    let mut panicking = subscriptions.add(&topic, Arc::new(Judge(|| panic!("told to"))));
    assert_eq!(subscriptions.of("t").deliver(&message), MessageAcceptance::Ignore);
    assert_eq!(accepting.try_recv().unwrap(), message);
    assert!(panicking.try_recv().is_err());
    drop(panicking);
    let rejecting = subscriptions.add(&topic, Arc::new(Judge(|| Verdict::Reject)));
    assert_eq!(subscriptions.of("t").deliver(&message), MessageAcceptance::Reject);
    assert!(accepting.try_recv().is_err());
    drop(rejecting);
    subscriptions.prune();
    assert_eq!(subscriptions.of("t").deliver(&message), MessageAcceptance::Accept);
    drop(accepting);
    subscriptions.prune();
    assert_eq!(subscriptions.topics().count(), 0);
    assert_eq!(subscriptions.of("t").deliver(&message), MessageAcceptance::Ignore);
}
