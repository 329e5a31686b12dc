//! A server that answers each query with what its client has called itself and the database.

use std::collections::BTreeMap;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// The number in the socket's name.
pub(crate) const PORT: u16 = 1;

/// Listens in a directory until the runtime ends.
pub(crate) fn listen(directory: &Path) {
    let listener = UnixListener::bind(directory.join(format!(".s.PGSQL.{PORT}"))).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// A result of one row with two columns of text.
fn answer(columns: [&[u8]; 2]) -> Vec<u8> {
    let (mut description, mut row) = (vec![0, 2], vec![0, 2]);
    for text in columns {
        // A column's name, table, number, type, length, modifier and format.
        description.extend(b"c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
        row.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        row.extend(text);
    }
    [
        message(b'T', &description),
        message(b'D', &row),
        message(b'C', b"SELECT 1\0"),
        message(b'Z', b"I"),
    ]
    .concat()
}

async fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    stream.read_exact(&mut startup).await?;
    let words: Vec<&[u8]> = startup[4..].split(|byte| *byte == 0).collect();
    let said: BTreeMap<_, _> = words
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    let own = [&b"user"[..], b"database"].map(|name| said.get(name).copied().unwrap_or_default());
    let greeting = [
        message(b'R', &[0; 4]),
        message(b'S', b"server_version\x0017.0\0"),
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'K', &[0; 8]),
        message(b'Z', b"I"),
    ];
    stream.write_all(&greeting.concat()).await?;
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        stream.read_exact(&mut vec![0; length as usize - 4]).await?;
        if kind == b'Q' {
            stream.write_all(&answer(own)).await?;
        }
    }
}
