use prost::Message;
use tombolo_fuzz::Target;

use super::*;

#[test]
fn answers_its_own_version_and_the_one_before() {
    assert!(protocol_answered(PROTOCOL));
    assert!(!protocol_answered(PROTOCOL + 1));
    assert!(!protocol_answered(0));
    let failure = Failure::unless_answered(PROTOCOL + 1).unwrap();
    assert_eq!(failure.reason, "ProtocolMismatch");
    assert_eq!(Failure::unless_answered(PROTOCOL), None);
}

#[test]
fn a_failure_can_always_be_told() {
    let long = "é".repeat(MAX_TEXT);
    let failure = Failure::new(Reason::KernelError, long, true);
    assert!(failure.message.len() <= MAX_TEXT + 4 && failure.message.ends_with(" …"));
    assert!(failure.encoded_len() < MAX_MESSAGE);
}

#[test]
fn the_longest_gc_fits_into_a_message() {
    let longest = ValidAttachment {
        container_id: "c".repeat(255),
        ifname: "i".repeat(15),
    };
    let request = GcRequest {
        protocol: PROTOCOL,
        network: "n".repeat(255),
        valid: vec![longest; MAX_VALID],
        begun: u64::MAX,
    };
    assert!(request.encoded_len() < MAX_MESSAGE * 2 / 3);
}

/// Decodes, and what was decoded survives the way out and back.
fn read<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = message.encode_to_vec();
        assert_eq!(M::decode(&*again).ok(), Some(message));
    }
}

#[test]
fn fuzz_messages() {
    Target::new("rpc-messages").runs(5000).check(|bytes| {
        read::<AddRequest>(bytes);
        read::<DelRequest>(bytes);
        read::<CheckRequest>(bytes);
        read::<StatusRequest>(bytes);
        read::<GcRequest>(bytes);
        read::<AddReply>(bytes);
        read::<DelReply>(bytes);
        read::<CheckReply>(bytes);
        read::<StatusReply>(bytes);
        read::<GcReply>(bytes);
    });
}

#[cfg(all(feature = "client", feature = "server"))]
mod limits {
    use tokio::net::UnixListener;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{Code, Request, Response, Status, async_trait};

    use super::*;

    /// Answers CHECK with a failure of as many bytes as the request's protocol number says.
    #[derive(Debug)]
    struct Verbose;

    #[async_trait]
    impl node_server::Node for Verbose {
        async fn add_network(
            &self,
            _request: Request<AddRequest>,
        ) -> Result<Response<AddReply>, Status> {
            Ok(Response::new(
                Failure::new(Reason::NotReady, "", true).into(),
            ))
        }

        async fn del_network(
            &self,
            _request: Request<DelRequest>,
        ) -> Result<Response<DelReply>, Status> {
            Ok(Response::new(DelReply::default()))
        }

        async fn check_network(
            &self,
            request: Request<CheckRequest>,
        ) -> Result<Response<CheckReply>, Status> {
            let failure = Failure {
                message: "x".repeat(request.into_inner().protocol as usize),
                ..Failure::default()
            };
            Ok(Response::new(CheckReply {
                failure: Some(failure),
            }))
        }

        async fn status(
            &self,
            _request: Request<StatusRequest>,
        ) -> Result<Response<StatusReply>, Status> {
            Ok(Response::new(StatusReply::default()))
        }

        async fn garbage_collect(
            &self,
            _request: Request<GcRequest>,
        ) -> Result<Response<GcReply>, Status> {
            Ok(Response::new(GcReply::default()))
        }
    }

    #[tokio::test]
    async fn neither_side_reads_a_longer_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let incoming = UnixListenerStream::new(UnixListener::bind(&path).unwrap());
        let serving = tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(server(Verbose))
                .serve_with_incoming(incoming),
        );
        let mut client = connect(&path).await.unwrap();
        let request = |length: usize| DelRequest {
            key: Some(Key {
                container_id: "x".repeat(length),
                ..Key::default()
            }),
            ..DelRequest::default()
        };
        client.del_network(request(MAX_MESSAGE - 20)).await.unwrap();
        let refused = client.del_network(request(MAX_MESSAGE)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");

        let answer = |length: usize| CheckRequest {
            protocol: u32::try_from(length).unwrap(),
            ..CheckRequest::default()
        };
        client
            .check_network(answer(MAX_MESSAGE - 20))
            .await
            .unwrap();
        let refused = client.check_network(answer(MAX_MESSAGE)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        serving.abort();
    }
}
