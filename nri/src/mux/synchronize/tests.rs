use super::*;

/// What a filter did.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    out: Vec<u8>,
    existing: Vec<String>,
    requests: usize,
}

/// Feeds `input` in pieces of `size` bytes.
fn filter(input: &[u8], size: usize) -> Result<Seen, Violation> {
    let count = InFlight::default();
    let mut seen = Seen::default();
    let mut existing = Vec::new();
    let mut filter = Filter::new(
        |item| {
            existing.push(match item {
                Existing::Pod(pod) => format!("pod {}", pod.id),
                Existing::Container(container) => format!("container {}", container.id),
                Existing::TooLarge(len) => format!("{len} bytes"),
            });
        },
        count.clone(),
    );
    for piece in input.chunks(size) {
        filter.feed(piece, &mut seen.out)?;
    }
    drop(filter);
    Ok(Seen { existing, requests: count.count(), ..seen })
}

fn message(stream: u32, kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u32;
    [&len.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], payload].concat()
}

fn request(method: &str, payload: Vec<u8>) -> Request {
    Request {
        service: SERVICE.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: 1_999_470_026,
        ..Default::default()
    }
}

fn synchronize(pods: &[&str], containers: &[&str], more: bool) -> SynchronizeRequest {
    SynchronizeRequest {
        pods: pods.iter().map(|id| PodSandbox { id: (*id).into(), ..Default::default() }).collect(),
        containers: containers
            .iter()
            .map(|id| Container { id: (*id).into(), ..Default::default() })
            .collect(),
        more,
        ..Default::default()
    }
}

/// A message with the one request that is left in `out`.
fn read_out(out: &[u8]) -> (Vec<u8>, Request, SynchronizeRequest) {
    let len = u32::from_be_bytes(out[..4].try_into().unwrap()) as usize;
    assert_eq!(out.len(), MESSAGE_HEADER + len);
    let request = Request::decode(&out[MESSAGE_HEADER..]).unwrap();
    let rest = SynchronizeRequest::parse_from_bytes(&request.payload).unwrap();
    (out[4..MESSAGE_HEADER].to_vec(), request, rest)
}

/// A protobuf field with bytes in it.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut len = bytes.len();
    while len > 0x7f {
        field.push(len as u8 | 0x80);
        len >>= 7;
    }
    field.push(len as u8);
    [&field, bytes].concat()
}

#[test]
fn pods_and_containers_are_taken_out_however_they_are_split() {
    for more in [false, true] {
        let payload = synchronize(&["p0", "p1"], &["c0", "c1", "c2"], more);
        let payload = payload.write_to_bytes().unwrap();
        let mut whole = request(METHOD, payload);
        whole.metadata = vec![Default::default(); 3];
        let input = message(5, REQUEST, &whole.encode().unwrap());
        for size in 1..=input.len() {
            let seen = filter(&input, size).unwrap();
            let items = ["pod p0", "pod p1", "container c0", "container c1", "container c2"];
            assert_eq!(seen.existing, items, "pieces of {size}");
            assert_eq!(seen.requests, 1);
            let (header, request, rest) = read_out(&seen.out);
            assert_eq!(header, [0, 0, 0, 5, REQUEST, 0]);
            assert_eq!((&*request.service, &*request.method), (SERVICE, METHOD));
            assert_eq!(request.timeout_nano, 1_999_470_026);
            assert_eq!(rest, synchronize(&[], &[], more));
        }
    }
}

#[test]
fn everything_else_passes_unchanged() {
    let others = [
        message(1, REQUEST, &request("CreateContainer", vec![1; 100]).encode().unwrap()),
        message(3, REQUEST, &request(METHOD, Vec::new()).encode().unwrap()),
        message(5, REQUEST, &[]),
        message(7, 2, b"not a request"),
        message(9, 3, &[]),
        message(11, REQUEST, &request("SynchronizeMore", vec![1; 10]).encode().unwrap()),
        message(13, REQUEST, &field(1, &[b'x'; 3 * MAX_HEAD])),
        message(
            15,
            REQUEST,
            &Request { service: "other".into(), ..request(METHOD, vec![1]) }.encode().unwrap(),
        ),
    ];
    let input = others.concat();
    for size in (1..200).chain([4096, input.len()]) {
        let seen = filter(&input, size).unwrap();
        assert!(seen.out == input, "pieces of {size}");
        assert_eq!(seen.requests, 6);
        assert!(seen.existing.is_empty());
    }
}

#[test]
fn messages_follow_each_other() {
    let other = message(1, REQUEST, &request("Configure", vec![9; 20]).encode().unwrap());
    let payload = synchronize(&["p"], &[], false).write_to_bytes().unwrap();
    let sync = message(3, REQUEST, &request(METHOD, payload).encode().unwrap());
    let rest = filter(&sync, sync.len()).unwrap().out;
    let input = [&other[..], &sync, &sync, &other].concat();
    let expected = [&other[..], &rest, &rest, &other].concat();
    for size in 1..=input.len() {
        let seen = filter(&input, size).unwrap();
        assert_eq!(seen.out, expected, "pieces of {size}");
        assert_eq!(seen.existing, ["pod p", "pod p"]);
    }
}

#[test]
fn fields_may_come_in_any_order() {
    let payload = [
        vec![0x18, 1], // more
        field(2, &field(1, b"c")),
        field(9, b"from the future"),
        field(1, &field(1, b"p")),
    ]
    .concat();
    let (service, method) = (field(1, SERVICE.as_bytes()), field(2, METHOD.as_bytes()));
    let timeout = vec![0x20, 7];
    let before = [&timeout[..], &method, &service, &field(3, &payload)].concat();
    let after = [&method[..], &service, &field(3, &payload), &timeout].concat();
    for request in [before, after] {
        let input = message(1, REQUEST, &request);
        for size in 1..=input.len() {
            let seen = filter(&input, size).unwrap();
            assert_eq!(seen.existing, ["container c", "pod p"], "pieces of {size}");
            let (_, request, rest) = read_out(&seen.out);
            assert!(rest.more);
            assert_eq!(request.timeout_nano, 7);
        }
    }
    // The method comes last: left to the service.
    let input = message(1, REQUEST, &[field(3, &payload), service, method].concat());
    let seen = filter(&input, 3).unwrap();
    assert_eq!(seen.out, input);
    assert!(seen.existing.is_empty());
}

#[test]
fn a_long_head_is_left_to_the_service_however_it_is_split() {
    let (service, method) = (field(1, SERVICE.as_bytes()), field(2, METHOD.as_bytes()));
    let payload = field(3, &field(1, &field(1, b"p")));
    // The payload begins before and right behind the limit; the length of the padding has two digits.
    let fixed = MESSAGE_HEADER + service.len() + method.len() + 3;
    for (room, filtered) in [(2, true), (1, true), (0, false), (100, true)] {
        let padding = field(9, &vec![b'x'; MAX_HEAD - fixed - room]);
        let request = [&service[..], &method, &padding, &payload].concat();
        let input = message(1, REQUEST, &request);
        for size in [1, 2, 100, MAX_HEAD, input.len()] {
            let seen = filter(&input, size).unwrap();
            assert_eq!(seen.existing.len(), usize::from(filtered), "room {room}, pieces of {size}");
        }
    }
}

#[test]
fn a_huge_item_is_passed_over() {
    let most = MAX_ITEM as usize;
    // An id of 1 MiB less the four bytes of its own key and length makes an item of 1 MiB.
    let fits = field(1, &field(1, &vec![b'x'; most - 4]));
    let huge = field(2, &field(1, &vec![b'x'; most - 3]));
    let payload = [fits, huge, field(2, &field(1, b"c"))].concat();
    let input = message(1, REQUEST, &request(METHOD, payload).encode().unwrap());
    let seen = filter(&input, 8192).unwrap();
    assert_eq!(seen.existing.len(), 3);
    assert_eq!(seen.existing[0].len(), "pod ".len() + most - 4);
    assert_eq!(seen.existing[1..], [format!("{} bytes", MAX_ITEM + 1), "container c".to_owned()]);
}

#[test]
fn nothing_grows_with_the_message() {
    let container = Container { id: "x".repeat(4000), ..Default::default() };
    let payload = SynchronizeRequest { containers: vec![container; 3000], ..Default::default() };
    let payload = payload.write_to_bytes().unwrap();
    assert!(payload.len() > 12_000_000);
    let input = message(1, REQUEST, &request(METHOD, payload).encode().unwrap());
    let mut containers = 0;
    let mut filter = Filter::new(|_| containers += 1, InFlight::default());
    let (mut out, mut most) = (Vec::new(), 0);
    for piece in input.chunks(8192) {
        filter.feed(piece, &mut out).unwrap();
        most = most.max(filter.held() + out.capacity());
    }
    assert_eq!((containers, read_out(&out).2.more), (3000, false));
    assert!(most < 16 << 10, "{most} bytes held");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let (service, method) = (field(1, SERVICE.as_bytes()), field(2, METHOD.as_bytes()));
    let sync = |payload: &[u8]| [&service[..], &method, &field(3, payload)].concat();
    let refused = [
        (sync(&[0x0a, 5, 1]), "longer than its message"),
        (sync(&[0x0a]), "ends inside"),
        (sync(&field(1, &[0xff])), "cannot be decoded"),
        (sync(&field(2, &field(1, &[0xff, 0xfe]))), "cannot be decoded"), // not UTF-8
        ([sync(&field(1, b"")), field(3, b"x")].concat(), "second method or payload"),
        ([sync(&field(1, b"")), field(2, b"Other")].concat(), "second method or payload"),
        ([&service[..], &[0x0a, 100]].concat(), "longer than its message"),
        (vec![0x0b], "not in use"),
    ];
    for (request, why) in refused {
        let input = message(1, REQUEST, &request);
        for size in 1..=input.len() {
            let violation = filter(&input, size).unwrap_err();
            assert!(violation.0.contains(why), "{request:?}: {violation}");
        }
    }
    let header = [&(MAX_MESSAGE as u32 + 1).to_be_bytes()[..], &[0, 0, 0, 1, REQUEST, 0]].concat();
    assert!(filter(&header, 10).unwrap_err().0.contains("16 MiB"));
}

/// Every change of one byte, and every cut, of a request that uses all of the format.
#[test]
fn nothing_panics_and_nothing_grows() {
    let payload = [
        field(1, &field(1, b"p")),
        field(2, &field(1, b"c")),
        vec![0x18, 1, 0x49, 1, 2, 3, 4, 5, 6, 7, 8, 0x4d, 1, 2, 3, 4],
    ];
    let whole = Request {
        metadata: vec![ttrpc::proto::KeyValue { key: "k".into(), ..Default::default() }],
        ..request(METHOD, payload.concat())
    };
    let input = message(1, REQUEST, &whole.encode().unwrap());
    for position in 0..input.len() {
        for change in [1, 2, 4, 8, 16, 32, 64, 128, 255] {
            let mut changed = input.repeat(2);
            changed[position] ^= change;
            for size in [1, 3, changed.len()] {
                if let Ok(seen) = filter(&changed, size) {
                    assert!(seen.out.len() <= changed.len() + MESSAGE_HEADER);
                }
            }
        }
        filter(&input[..position], 2).unwrap();
    }
}
