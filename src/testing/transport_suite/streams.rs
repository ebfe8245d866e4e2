//! Streams and those who serve them.

use super::*;

/// Who opened decides what it may ask.
pub async fn a_stream_carries_bytes_both_ways_and_says_who_opened_it(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    for (from, to, name) in [(&one, &other, "there"), (&other, &one, "back")] {
        let mut streams = hand_out(to, name);
        let mut ours = open(from, to, name).await.unwrap();
        ours.write_all(b"ping").await.unwrap();
        ours.flush().await.unwrap();
        let (opened_by, mut theirs) = within("a stream", streams.recv()).await.unwrap();
        assert_eq!(opened_by, from.local_peer());
        let mut four = [0; 4];
        within("reading", theirs.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"ping");
        theirs.write_all(b"pong").await.unwrap();
        theirs.flush().await.unwrap();
        within("reading", ours.read_exact(&mut four)).await.unwrap();
        assert_eq!(&four, b"pong");
    }
}

/// A question ends, its answer still comes.
pub async fn each_half_of_a_stream_ends_by_itself(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "halves");
    let mut ours = open(&one, &other, "halves").await.unwrap();
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    let mut question = Vec::new();
    within("the question", theirs.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    drop(theirs);
    let mut answer = Vec::new();
    within("the answer", ours.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"answer", "dropping after the end takes nothing back");
}

/// More than any buffer holds.
pub async fn large_data_arrives_whole(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    // No part starts with the byte that makes the echo panic.
    let byte = |number: u32| (number.wrapping_mul(2_654_435_761) >> 27) as u8;
    let data: Vec<u8> = (0..4 * 1024 * 1024).map(byte).collect();
    let answer = echoed(open(&one, &other, "echo").await.unwrap(), &data).await.unwrap();
    assert!(answer == data, "{} of {} bytes came back, or others", answer.len(), data.len());
}

/// Memory is bounded by buffers, not by what is sent.
pub async fn a_writer_waits_for_a_reader_that_does_not_read(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "unread");
    let mut ours = open(&one, &other, "unread").await.unwrap();
    let much = vec![7; 64 * 1024 * 1024];
    let written = timeout(Duration::from_millis(500), ours.write_all(&much)).await;
    assert!(written.is_err(), "{written:?}: 64 MiB went somewhere");
    drop(streams.try_recv());
}

/// Operators look here for what fills their links.
pub async fn what_travels_is_counted_by_protocol(fixture: impl Fixture) {
    const SENT: usize = 100_000;
    const ANSWERED: usize = 7;
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "counted");
    hand_out(&other, "silent");
    let name = protocol("counted");
    assert!(!one.bandwidth().contains_key(name.as_str()));
    let mut ours = open(&one, &other, "counted").await.unwrap();
    ours.write_all(&vec![1; SENT]).await.unwrap();
    ours.shutdown().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    let mut read = Vec::new();
    within("what was sent", theirs.read_to_end(&mut read)).await.unwrap();
    theirs.write_all(&[2; ANSWERED]).await.unwrap();
    theirs.shutdown().await.unwrap();
    within("the answer", ours.read_to_end(&mut read)).await.unwrap();

    for (transport, total_in, total_out) in [(&one, ANSWERED, SENT), (&other, SENT, ANSWERED)] {
        let all = transport.bandwidth();
        let moved = all[name.as_str()];
        assert_eq!((moved.total_in, moved.total_out), (total_in as i64, total_out as i64));
        assert!(moved.rate_in > 0.0 && moved.rate_out > 0.0, "{moved:?}");
        assert!(!all.contains_key(protocol("silent").as_str()), "{all:?}");
    }
    let mut messages = subscribe(&other, accept_all);
    heard(&one, b"counted", &mut messages).await;
    for transport in [&one, &other] {
        let gossip = transport.bandwidth()[GOSSIP_PROTOCOL];
        assert!(gossip.total_in + gossip.total_out > 0, "{gossip:?}");
    }
    one.shutdown().await.unwrap();
    assert_eq!(one.bandwidth()[name.as_str()].total_out, SENT as i64);
}

/// Also when one of them is stuck.
pub async fn streams_do_not_wait_for_each_other(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let streams = hand_out(&other, "stuck");
    echo(&other);
    let mut stuck = open(&one, &other, "stuck").await.unwrap();
    let much = vec![7; 16 * 1024 * 1024];
    assert!(timeout(Duration::from_millis(200), stuck.write_all(&much)).await.is_err());
    join_all((0..50).map(|_| echo_works(&one, &other))).await;
    drop(streams);
}

/// As an error or as an end, but not never.
pub async fn a_dropped_stream_ends_at_the_other_side_too(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    let mut streams = hand_out(&other, "dropped");
    let mut ours = open(&one, &other, "dropped").await.unwrap();
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    let (_, mut theirs) = within("a stream", streams.recv()).await.unwrap();
    drop(ours);
    let mut rest = Vec::new();
    let _ = within("the end of a dropped stream", theirs.read_to_end(&mut rest)).await;

    let mut ours = open(&one, &other, "dropped").await.unwrap();
    ours.write_all(b"x").await.unwrap();
    ours.flush().await.unwrap();
    drop(within("a stream", streams.recv()).await.unwrap());
    let _ = within("the end of a dropped stream", ours.read_to_end(&mut rest)).await;
}

/// The caller falls back to an older protocol by this kind, and the connection serves it.
pub async fn a_protocol_nobody_serves_is_unsupported(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let error = open(&one, &other, "nobody").await.err().expect("a protocol that nobody serves");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    echo_works(&one, &other).await;
}

/// Two components that take the same name are a bug that must show at once.
pub async fn a_second_handler_is_refused_and_the_first_goes_on(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let (sender, _receiver) = mpsc::channel(1);
    let error = other.accept(protocol("echo"), Arc::new(Hand(sender))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    echo_works(&one, &other).await;
}

/// What comes from the network must not take the peer down.
pub async fn a_handler_that_panics_harms_only_its_stream(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    let mut stream = open(&one, &other, "echo").await.unwrap();
    stream.write_all(b"!").await.unwrap();
    stream.flush().await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the end after a panic", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    echo_works(&one, &other).await;
}

/// Connections come and go; callers only name the peer.
pub async fn opening_connects_again_where_needed(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    one.disconnect(&other.local_peer()).await.unwrap();
    until("a disconnection", || one.peers().is_empty() && other.peers().is_empty()).await;
    echo_works(&one, &other).await;
    assert_eq!(one.peers(), [other.local_peer()]);
}

/// A member that is down makes an entry in an answer, not a hang.
pub async fn opening_to_who_left_is_unavailable(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    within("shutting down", other.shutdown()).await.unwrap();
    let error = open(&one, &other, "echo").await.err().expect("a stream to nobody");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
}

/// Deadlines drop calls.
pub async fn an_open_that_is_dropped_leaves_nothing_behind(fixture: impl Fixture) {
    let (_guard, one, other) = two(&fixture).await;
    echo(&other);
    for polls in 0..20 {
        let (to, name) = (other.local_peer(), protocol("echo"));
        let mut opening = one.open(&to, &name);
        for _ in 0..polls {
            if (&mut opening).now_or_never().is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    echo_works(&one, &other).await;
}
