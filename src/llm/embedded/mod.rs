//! The in-process model.
#![allow(dead_code)]
mod model;
mod tokenizer;
#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;
    #[test]
    fn play() {
        let path = format!("{}/.cache/qaflow/models/SmolLM2-135M-Instruct.Q4_1.gguf", std::env::var("HOME").unwrap());
        let mut r = BufReader::new(std::fs::File::open(path).unwrap());
        let t0 = std::time::Instant::now();
        let c = candle_core::quantized::gguf_file::Content::read(&mut r).unwrap();
        let tok = tokenizer::Tokenizer::from_gguf(&c).unwrap();
        println!("tok {:?}", t0.elapsed());
        println!("{:?}", tok.encode("Hello  world, 1234 pay's\n").unwrap());
        let m = model::Llama::load(&c, &mut r).unwrap();
        println!("load {:?}", t0.elapsed());
        let mut p = tok.turn("system", "You write clear questions about health policy.").unwrap();
        p.extend(tok.turn("user", "What is the capital of France?").unwrap());
        p.extend(tok.open("assistant").unwrap());
        let (pre, rest) = p.split_at(20);
        let t0 = std::time::Instant::now();
        let pre = m.prefix(pre).unwrap();
        println!("prefix {:?}", t0.elapsed());
        let (mut rows, h) = m.start(&pre, &[rest.to_vec(), [rest, &tok.encode("The").unwrap()].concat()]).unwrap();
        let n = h.dims()[1];
        let mut h = h.narrow(1, n - 1, 1).unwrap();
        let mut out = vec![vec![]; 2];
        let t0 = std::time::Instant::now();
        for _ in 0..20 {
            let l = m.logits(&h.squeeze(1).unwrap().contiguous().unwrap()).unwrap().argmax(1).unwrap().to_vec1::<u32>().unwrap();
            for (o, t) in out.iter_mut().zip(&l) { o.push(*t) }
            h = m.step(&pre, &mut rows, &l).unwrap();
        }
        println!("20 steps of 2 {:?}", t0.elapsed());
        for o in &out { println!("{:?}", tok.decode(o)); }
    }
}
