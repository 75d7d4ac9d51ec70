//! A protobuf message, field by field, while it comes in.

use super::Violation;

const TOO_LONG: Violation = Violation("a protobuf field is longer than its message");

/// What comes next in a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A whole number.
    Varint { field: u64, value: u64 },
    /// A string, some bytes or a message begins.
    Start { field: u64, len: u64 },
    /// The next bytes of what began.
    Bytes { field: u64, bytes: &'a [u8] },
    /// What began is complete.
    End { field: u64 },
}

/// Splits one message into its fields, given in pieces of any size. Holds no bytes itself.
///
/// Fields of fixed size are passed over; groups, which no encoder has produced for over ten years,
/// are refused.
#[derive(Debug)]
pub(super) struct Fields {
    left: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Key(Varint),
    Number { field: u64, value: Varint },
    Length { field: u64, len: Varint },
    Bytes { field: u64, left: u64 },
    Fixed { left: u64 },
}

impl Fields {
    /// A message of `len` bytes.
    pub(super) fn new(len: u64) -> Self {
        Self { left: len, state: State::Key(Varint::default()) }
    }

    /// How many bytes of the message are still to come.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Takes the next token off the front of `input`; `None` if `input` or the message is used up.
    ///
    /// # Errors
    ///
    /// The bytes are not a protobuf message of this length.
    pub(super) fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
    ) -> Result<Option<Token<'a>>, Violation> {
        loop {
            if let State::Bytes { field, left: 0 } = self.state {
                self.state = State::Key(Varint::default());
                return Ok(Some(Token::End { field }));
            }
            if self.left == 0 {
                return self.check_end().map(|()| None);
            }
            if input.is_empty() {
                return Ok(None);
            }
            if let Some(token) = self.step(input)? {
                return Ok(Some(token));
            }
        }
    }

    /// A message may only end between two fields.
    fn check_end(&self) -> Result<(), Violation> {
        match &self.state {
            State::Key(key) if key.is_new() => Ok(()),
            State::Fixed { left: 0 } => Ok(()),
            _ => Err(Violation("a protobuf message ends inside a field")),
        }
    }

    /// Takes at least one byte off `input`, which is not empty.
    fn step<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Token<'a>>, Violation> {
        match &mut self.state {
            State::Key(key) => {
                if let Some(key) = key.push(take(input, 1, &mut self.left)[0])? {
                    self.state = State::value(key)?;
                }
                Ok(None)
            }
            State::Number { field, value } => {
                let field = *field;
                let Some(value) = value.push(take(input, 1, &mut self.left)[0])? else {
                    return Ok(None);
                };
                self.state = State::Key(Varint::default());
                Ok(Some(Token::Varint { field, value }))
            }
            State::Length { field, len } => {
                let field = *field;
                let Some(len) = len.push(take(input, 1, &mut self.left)[0])? else {
                    return Ok(None);
                };
                if len > self.left {
                    return Err(TOO_LONG);
                }
                self.state = State::Bytes { field, left: len };
                Ok(Some(Token::Start { field, len }))
            }
            State::Bytes { field, left } => {
                let bytes = take(input, *left, &mut self.left);
                *left -= bytes.len() as u64;
                Ok(Some(Token::Bytes { field: *field, bytes }))
            }
            State::Fixed { left } => {
                *left -= take(input, *left, &mut self.left).len() as u64;
                if *left == 0 {
                    self.state = State::Key(Varint::default());
                }
                Ok(None)
            }
        }
    }
}

impl State {
    /// What follows this key.
    fn value(key: u64) -> Result<Self, Violation> {
        let field = key >> 3;
        if field == 0 {
            return Err(Violation("a protobuf field has the number 0"));
        }
        match key & 7 {
            0 => Ok(Self::Number { field, value: Varint::default() }),
            1 => Ok(Self::Fixed { left: 8 }),
            2 => Ok(Self::Length { field, len: Varint::default() }),
            5 => Ok(Self::Fixed { left: 4 }),
            _ => Err(Violation("a protobuf field has a wire type that is not in use")),
        }
    }
}

/// A number in base 128, least significant digit first; the top bit says that another one follows.
#[derive(Debug, Default)]
struct Varint {
    value: u64,
    digits: u32,
}

impl Varint {
    fn is_new(&self) -> bool {
        self.digits == 0
    }

    /// Adds a digit; the number is complete when it is returned.
    fn push(&mut self, byte: u8) -> Result<Option<u64>, Violation> {
        if self.digits == 10 {
            return Err(Violation("a protobuf number has more than ten digits"));
        }
        // What is shifted out of a tenth digit is lost, as everywhere else.
        self.value |= u64::from(byte & 0x7f) << (7 * self.digits);
        self.digits += 1;
        Ok((byte & 0x80 == 0).then_some(self.value))
    }
}

/// Takes up to `most` bytes off the front of `input`, and off what is left of the message.
fn take<'a>(input: &mut &'a [u8], most: u64, left: &mut u64) -> &'a [u8] {
    let most = usize::try_from(most.min(*left)).unwrap_or(usize::MAX);
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    *left -= taken.len() as u64;
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Field {
        Number(u64, u64),
        Bytes(u64, Vec<u8>),
    }

    /// Reads a message in pieces of `size` bytes.
    fn read(message: &[u8], size: usize) -> Result<Vec<Field>, Violation> {
        let mut fields = Fields::new(message.len() as u64);
        let (mut read, mut current) = (Vec::new(), Vec::new());
        for mut piece in message.chunks(size) {
            while let Some(token) = fields.next(&mut piece)? {
                match token {
                    Token::Varint { field, value } => read.push(Field::Number(field, value)),
                    Token::Start { len, .. } => current = Vec::with_capacity(len as usize),
                    Token::Bytes { bytes, .. } => current.extend_from_slice(bytes),
                    Token::End { field } => {
                        read.push(Field::Bytes(field, std::mem::take(&mut current)));
                    }
                }
            }
            assert!(piece.is_empty(), "stopped early");
        }
        assert_eq!(fields.left(), 0);
        Ok(read)
    }

    #[test]
    fn fields_are_the_same_however_they_are_split() {
        let message = [
            &[0x0a, 3, b'a', b'b', b'c'][..],                        // 1: "abc"
            &[0x10, 0xac, 0x02],                                     // 2: 300
            &[0x19, 1, 2, 3, 4, 5, 6, 7, 8],                         // 3: fixed64
            &[0x25, 1, 2, 3, 4],                                     // 4: fixed32
            &[0xf8, 0x7f, 1],                                        // 2047: 1
            &[0x28, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], // 5: -1
            &[0x12, 0],                                              // 2: ""
        ]
        .concat();
        let expected = [
            Field::Bytes(1, b"abc".to_vec()),
            Field::Number(2, 300),
            Field::Number(2047, 1),
            Field::Number(5, u64::MAX),
            Field::Bytes(2, Vec::new()),
        ];
        for size in 1..=message.len() {
            assert_eq!(read(&message, size).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_is_not_protobuf_is_refused() {
        let refused: [(&[u8], &str); 9] = [
            (&[0x0a, 4, b'a', b'b', b'c'], "longer than its message"),
            (&[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], "longer than its message"),
            (&[0x0a], "ends inside"),
            (&[0x80], "ends inside"),
            (&[0x10, 0x80], "ends inside"),
            (&[0x19, 1, 2], "ends inside"),
            (&[0x0b], "not in use"),
            (&[0x00, 0], "number 0"),
            (&[0x10, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], "ten digits"),
        ];
        for (message, why) in refused {
            for size in 1..=message.len() {
                let error = read(message, size).unwrap_err();
                assert!(error.0.contains(why), "{message:?}: {error}");
            }
        }
    }
}
