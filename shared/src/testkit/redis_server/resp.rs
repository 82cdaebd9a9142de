//! A tiny blocking client for tests: one command, one reply. Deliberately not the redis crate, so that a
//! test looks at the server with other eyes than the code under test.

use std::io::{BufRead, BufReader, Error, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const WAIT_MAX: Duration = Duration::from_secs(30);

/// A reply of any shape.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// Simple strings, numbers and bulk strings.
    Bytes(Vec<u8>),
    /// Absent.
    Nil,
    /// Arrays.
    List(Vec<Reply>),
    /// A refusal.
    Refused(String),
}

impl Reply {
    /// The reply as text; the items of a list on lines of their own; a refusal with its code.
    pub fn text(&self) -> String {
        match self {
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Self::Nil => String::new(),
            Self::List(items) => items.iter().map(Self::text).collect::<Vec<_>>().join("\n"),
            Self::Refused(why) => why.clone(),
        }
    }

    /// # Panics
    /// When the command was refused.
    pub fn expect_ok(self) -> Self {
        if let Self::Refused(why) = &self {
            panic!("redis refuses: {why}");
        }
        self
    }
}

/// One connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to a server on loopback.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(port: u16) -> Result<Self> {
        let stream =
            TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), WAIT_MAX)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Runs one command.
    ///
    /// # Errors
    /// When the connection breaks or the answer is late.
    pub fn call(&mut self, words: &[&str]) -> Result<Reply> {
        self.call_bytes(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>())
    }

    /// Runs one command whose words are any bytes.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_bytes(&mut self, words: &[&[u8]]) -> Result<Reply> {
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend(format!("${}\r\n", word.len()).into_bytes());
            request.extend(*word);
            request.extend(b"\r\n");
        }
        self.stream.get_mut().write_all(&request)?;
        self.read()
    }

    /// Reads one more reply: the next message of a connection that has subscribed.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn read(&mut self) -> Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(Error::other("closed"));
        }
        let line = line.trim_end();
        let (sort, rest) = line.split_at(1.min(line.len()));
        let count =
            || rest.parse::<i64>().map_err(|_| Error::other(format!("not a reply: {line}")));
        Ok(match sort {
            "+" | ":" => Reply::Bytes(rest.as_bytes().to_vec()),
            "-" => Reply::Refused(rest.to_owned()),
            "$" => match usize::try_from(count()?) {
                Err(_) => Reply::Nil,
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(len);
                    Reply::Bytes(bytes)
                }
            },
            "*" => match count()? {
                ..0 => Reply::Nil,
                n => Reply::List((0..n).map(|_| self.read()).collect::<Result<_>>()?),
            },
            _ => return Err(Error::other(format!("not a reply: {line}"))),
        })
    }
}
