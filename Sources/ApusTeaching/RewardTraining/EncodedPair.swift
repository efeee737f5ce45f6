import ApusModels
import ApusText

/// A preference pair as the tokens that a reward model reads.
struct EncodedPair: Sendable {
    let chosen: [Int32]
    let rejected: [Int32]
    let margin: Double

    /// Tokens of both sides.
    var tokenCount: Int { chosen.count + rejected.count }

    /// Encodes pairs; nil for those of which a side has more than `longest` tokens, or none.
    static func encode(
        _ pairs: [PreferencePair], _ encoder: RewardEncoder, longest: Int
    ) throws -> [EncodedPair?] {
        try pairs.map { pair in
            let chosen = try encoder.tokens(pair.chosen, prompt: pair.prompt)
            let rejected = try encoder.tokens(pair.rejected, prompt: pair.prompt)
            guard min(chosen.count, rejected.count) > 0, max(chosen.count, rejected.count) <= longest else {
                return nil
            }
            return EncodedPair(chosen: chosen, rejected: rejected, margin: pair.margin)
        }
    }
}

extension [EncodedPair] {
    /// Sides one after the other, chosen and rejected in turns, and the rows that they start at.
    var packed: (tokens: [Int32], starts: [Int]) {
        var (tokens, starts) = ([Int32](), [0])
        for pair in self {
            for side in [pair.chosen, pair.rejected] {
                tokens += side
                starts.append(tokens.count)
            }
        }
        return (tokens, starts)
    }
}

/// A token that fills up batches of a score head: transformers scores at the last token that is another one, so no
/// conversation may end with it.
enum ScorePadding {
    /// The model's own padding where no conversation ends with it, else another token that none ends with.
    static func token(
        _ configuration: DecoderConfiguration, _ tokenizer: Tokenizer, endings: Set<Int32>
    ) -> Int? {
        let named = tokenizer.namedTokens
        let candidates =
            [configuration.padToken.map { Int32($0) }, named.padding, named.unknown, named.bos, named.eos]
            .compactMap { $0 } + (0..<Int32(configuration.vocabularySize))
        return candidates.first { !endings.contains($0) }.map { Int($0) }
    }
}
