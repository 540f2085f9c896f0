//! What a row is, said once more as a byte-by-byte reading of the whole stream, and compared with what the framer finds
//! however the stream is cut.

use proptest::prelude::*;

use super::*;

const NO_LIMIT: Limit = Limit { rows: usize::MAX, bytes: usize::MAX };
const LARGE: usize = 1 << 20;

/// A row with its place: offset, bytes, reject, header.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    offset: u64,
    bytes: Vec<u8>,
    message: Option<String>,
    header: Option<Bytes>,
}

fn drain(framer: &mut Framer, limit: Limit, rows: &mut Vec<Row>) -> Vec<Cut> {
    let mut cuts = Vec::new();
    while framer.search(limit) && framer.has_rows() {
        cuts.push(framer.take().unwrap());
    }
    rows.extend(cuts.iter().flat_map(rows_of));
    cuts
}

fn rows_of(cut: &Cut) -> Vec<Row> {
    let places = cut.rows.rows.iter().enumerate();
    places
        .map(|(index, range)| Row {
            offset: cut.offset + u64::from(range.start),
            bytes: cut.rows.row(index).to_vec(),
            message: cut.rejects.iter().find(|reject| reject.row == index).map(|reject| reject.message.clone()),
            header: cut.header.clone(),
        })
        .collect()
}

fn frame(format: LineFormat, max: usize, pieces: &[&[u8]], limit: Limit, ending: Ending) -> Vec<Row> {
    let mut framer = Framer::new(format, max, 0, None);
    let mut rows = Vec::new();
    for piece in pieces {
        framer.push(piece);
        drain(&mut framer, limit, &mut rows);
    }
    framer.end(ending);
    drain(&mut framer, limit, &mut rows);
    assert!(framer.is_exhausted());
    assert_eq!(framer.received(), pieces.iter().map(|piece| piece.len() as u64).sum::<u64>());
    rows
}

fn lines(format: LineFormat, text: &[u8]) -> Vec<Vec<u8>> {
    frame(format, LARGE, &[text], NO_LIMIT, Ending::Whole).into_iter().map(|row| row.bytes).collect()
}

fn ndjson(text: &[u8]) -> Vec<Vec<u8>> {
    lines(LineFormat::Ndjson, text)
}

/// What the rows are, read off byte by byte.
fn expected(format: LineFormat, max: usize, text: &[u8]) -> Vec<Row> {
    let mut lines = Vec::new();
    let (mut start, mut quoted, mut at) = (0, false, 0);
    while at < text.len() {
        let first = at == start || text[at - 1] == b',' || (at == 3 && text.starts_with(BOM));
        match text[at] {
            b'"' if format == LineFormat::Csv && quoted => {
                if text.get(at + 1) == Some(&b'"') {
                    at += 1;
                } else {
                    quoted = false;
                }
            }
            b'"' if format == LineFormat::Csv && first => quoted = true,
            b'\n' if !quoted => {
                lines.push(start..at);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    lines.push(start..text.len());
    let mut header = None;
    let mut rows = Vec::new();
    for line in lines {
        let mut line = line;
        if line.start == 0 && text[line.clone()].starts_with(BOM) {
            line.start = 3;
        }
        if text[line.clone()].ends_with(b"\r") {
            line.end -= 1;
        }
        if line.is_empty() {
            continue;
        }
        let kept = &text[line.start..line.end.min(line.start + max)];
        let message = (line.len() > max).then(|| {
            let length = line.len();
            format!("the row has {length} bytes and max_row_bytes is {max}; its first {max} bytes are kept")
        });
        let is_header = format == LineFormat::Csv && header.is_none();
        if is_header {
            header = Some(Bytes::copy_from_slice(kept));
        }
        if !is_header || message.is_some() {
            rows.push(Row { offset: line.start as u64, bytes: kept.to_vec(), message, header: header.clone() });
        }
    }
    rows
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just(b"\n".to_vec()), 2 => Just(b"\r\n".to_vec()), 1 => Just(b"\r".to_vec()),
        3 => Just(b"\"".to_vec()), 3 => Just(b",".to_vec()), 1 => Just(b"\0".to_vec()),
        1 => Just(b"\xff".to_vec()), 1 => Just(BOM.to_vec()), 6 => Just(b"a".to_vec()),
        1 => (1..40_usize).prop_map(|length| vec![b'x'; length]),
    ];
    (any::<bool>(), proptest::collection::vec(piece, 0..60)).prop_map(|(bom, pieces)| {
        let start = if bom { BOM.to_vec() } else { Vec::new() };
        std::iter::once(start).chain(pieces).flatten().collect()
    })
}

fn format() -> impl Strategy<Value = LineFormat> {
    prop_oneof![Just(LineFormat::Ndjson), Just(LineFormat::Csv)]
}

fn pieces(text: &[u8], cuts: Vec<prop::sample::Index>) -> Vec<&[u8]> {
    let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.index(text.len() + 1)).collect();
    places.extend([0, text.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn rows_and_offsets_are_the_same_however_the_stream_is_cut(
        format in format(),
        text in stream(),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        max in prop_oneof![8..20_usize, Just(LARGE)],
        rows in 1..5_usize,
        bytes in 0..60_usize,
    ) {
        let found = frame(format, max, &pieces(&text, cuts), Limit { rows, bytes }, Ending::Whole);
        prop_assert_eq!(found, expected(format, max, &text));
    }

    #[test]
    fn a_stream_goes_on_where_a_block_of_it_ended(
        format in format(),
        text in stream(),
        rows in 1..4_usize,
    ) {
        let limit = Limit { rows, bytes: usize::MAX };
        let whole = frame(format, LARGE, &[&text], NO_LIMIT, Ending::Whole);
        let mut framer = Framer::new(format, LARGE, 0, None);
        framer.push(&text);
        framer.end(Ending::Whole);
        let mut given = Vec::new();
        for cut in drain(&mut framer, limit, &mut given) {
            let mut again = Framer::new(format, LARGE, cut.next, cut.header.clone());
            again.push(&text[cut.next as usize..]);
            again.end(Ending::Whole);
            let mut rest = Vec::new();
            drain(&mut again, limit, &mut rest);
            let last = cut.offset + u64::from(cut.rows.rows.last().unwrap().start);
            let expected: Vec<Row> = whole.iter().filter(|row| row.offset > last).cloned().collect();
            prop_assert_eq!(rest, expected);
        }
    }

    #[test]
    fn a_block_keeps_its_limits(text in stream(), rows in 1..5_usize, bytes in 0..30_usize) {
        let mut framer = Framer::new(LineFormat::Ndjson, LARGE, 0, None);
        framer.push(&text);
        framer.end(Ending::Whole);
        for cut in drain(&mut framer, Limit { rows, bytes }, &mut Vec::new()) {
            let ranges = &cut.rows.rows;
            let span = ranges.last().unwrap().end - ranges.first().unwrap().start;
            prop_assert!(ranges.len() <= rows && (span as usize <= bytes || ranges.len() == 1));
        }
    }
}

#[test]
fn a_line_ends_with_lf_or_crlf_and_the_end_is_not_part_of_the_row() {
    assert_eq!(ndjson(b"a\nb\r\nc"), [b"a", b"b", b"c"]);
}

#[test]
fn empty_lines_are_no_rows() {
    assert_eq!(ndjson(b"\n\r\n\n"), Vec::<Vec<u8>>::new());
    assert_eq!(ndjson(b"\n\na\n\r\nb\n\n"), [b"a", b"b"]);
    assert_eq!(lines(LineFormat::Csv, b"\nh\n\n1\n\r\n2\n"), [b"1", b"2"]);
}

#[test]
fn an_empty_stream_has_no_rows() {
    assert_eq!(ndjson(b""), Vec::<Vec<u8>>::new());
    assert_eq!(lines(LineFormat::Csv, b"only,a,header\n"), Vec::<Vec<u8>>::new());
    assert_eq!(lines(LineFormat::Csv, b"only,a,header"), Vec::<Vec<u8>>::new());
}

#[test]
fn bytes_that_are_no_text_pass_untouched() {
    assert_eq!(ndjson(b"\0\xff\xfe\n\xc3\x28\n"), [&b"\0\xff\xfe"[..], b"\xc3\x28"]);
}

#[test]
fn a_byte_order_mark_belongs_to_no_row() {
    assert_eq!(ndjson(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"), [&b"a"[..], b"\xef\xbb\xbfb"]);
    let rows = frame(LineFormat::Csv, LARGE, &[b"\xef\xbb\xbf\"i\nd\",n\n1,2\n"], NO_LIMIT, Ending::Whole);
    assert_eq!(rows[0].header.as_deref(), Some(&b"\"i\nd\",n"[..]));
}

#[test]
fn a_quoted_field_can_hold_line_ends_and_quotes() {
    let text = b"id,text\n1,\"two\nlines\"\n2,\"a \"\"quoted\"\"\r\n word\"\r\n3,plain\n";
    let rows = lines(LineFormat::Csv, text);
    assert_eq!(rows, [&b"1,\"two\nlines\""[..], b"2,\"a \"\"quoted\"\"\r\n word\"", b"3,plain"]);
}

#[test]
fn a_stray_quote_does_not_swallow_the_lines_after_it() {
    let rows = lines(LineFormat::Csv, b"id,size\n1,5\" pipe\n2,7\" pipe\n3,9\n");
    assert_eq!(rows, [&b"1,5\" pipe"[..], b"2,7\" pipe", b"3,9"]);
}

#[test]
fn a_row_over_the_limit_is_a_reject_that_says_how_long_it_was_and_takes_no_memory() {
    let mut framer = Framer::new(LineFormat::Ndjson, LARGE, 0, None);
    let mut rows = Vec::new();
    framer.push(b"{}\n");
    for _ in 0..64 {
        framer.push(&vec![b'x'; LARGE]);
        drain(&mut framer, NO_LIMIT, &mut rows);
        framer.search(NO_LIMIT);
        if framer.has_rows() {
            rows.extend(rows_of(&framer.take().unwrap()));
            framer.search(NO_LIMIT);
        }
        assert!(framer.buffer.capacity() <= 8 * LARGE, "{}", framer.buffer.capacity());
    }
    framer.push(b"\r\n[]\n");
    framer.end(Ending::Whole);
    drain(&mut framer, NO_LIMIT, &mut rows);
    let lengths: Vec<usize> = rows.iter().map(|row| row.bytes.len()).collect();
    assert_eq!(lengths, [2, 64 << 10, 2]);
    let message = rows[1].message.as_deref().unwrap();
    assert_eq!(message, "the row has 67108864 bytes and max_row_bytes is 1048576; its first 65536 bytes are kept");
}

#[test]
fn a_line_of_50_mb_is_a_row_like_any_other() {
    let line = vec![b'x'; 50 << 20];
    let mut framer = Framer::new(LineFormat::Csv, 64 << 20, 0, Some(Bytes::from_static(b"h")));
    for piece in line.chunks(64 << 10) {
        framer.push(piece);
        assert!(!framer.search(NO_LIMIT));
        // What was searched is not searched again.
        assert_eq!(framer.searched, framer.buffer.len());
    }
    framer.push(b"\nnext\n");
    framer.end(Ending::Whole);
    let mut rows = Vec::new();
    drain(&mut framer, Limit { rows: 10, bytes: 1000 }, &mut rows);
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[0].bytes.len(), &rows[0].message), (50 << 20, &None));
    assert!(framer.buffer.capacity() <= REUSED_BYTES);
}

#[test]
fn the_rest_of_a_torn_stream_is_one_reject_after_the_rows_before_it() {
    let torn = || Ending::Torn("torn".into());
    let rows = frame(LineFormat::Ndjson, LARGE, &[b"a\nb\n{\"c"], NO_LIMIT, torn());
    let found: Vec<_> = rows.iter().map(|row| (row.bytes.as_slice(), row.message.as_deref())).collect();
    assert_eq!(found, [(&b"a"[..], None), (b"b", None), (b"{\"c", Some("torn"))]);
}

#[test]
fn a_stream_that_is_torn_between_two_rows_leaves_an_empty_reject() {
    let rows = frame(LineFormat::Ndjson, LARGE, &[b"a\n"], NO_LIMIT, Ending::Torn("torn".into()));
    assert_eq!(rows.len(), 2);
    assert_eq!((rows[1].offset, rows[1].bytes.len(), rows[1].message.as_deref()), (2, 0, Some("torn")));
}

#[test]
fn the_rest_of_a_torn_stream_is_kept_in_part_if_it_is_over_the_limit() {
    let rows = frame(LineFormat::Ndjson, 10, &[b"a\n", &[b'x'; 100]], NO_LIMIT, Ending::Torn("torn".into()));
    assert_eq!(rows[1].bytes, [b'x'; 10]);
    assert!(rows[1].message.as_deref().unwrap().starts_with("torn; the row has 100 bytes"), "{rows:?}");
}
