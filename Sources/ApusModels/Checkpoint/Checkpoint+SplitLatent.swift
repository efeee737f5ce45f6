import ApusTensor

/// GGUF files that keep the up-projection of MLA in its absorbed form: `attn_k_b` [heads, latent, content], transposed, and
/// `attn_v_b` [heads, value, latent].
extension Checkpoint {
    private func splitNames(_ role: TensorRole) -> (keys: String, values: String)? {
        guard tensorNaming == .gguf, case .layer(let index, .latentUp(0)) = role else { return nil }
        let names = ("blk.\(index).attn_k_b.weight", "blk.\(index).attn_v_b.weight")
        return !hasTensor(named: name(of: role)) && hasTensor(named: names.0) ? names : nil
    }

    /// The whole up-projection, float32 [heads · (content + value), latent], where the file has it in two; nil where it is
    /// one tensor.
    func joinedLatentUp(_ role: TensorRole) throws -> Tensor? {
        guard let names = splitNames(role) else { return nil }
        let (keys, values) = (try tensor(named: names.keys), try tensor(named: names.values))
        guard keys.shape.rank == 3, values.shape.rank == 3, keys.shape[0] == values.shape[0],
            keys.shape[1] == values.shape[2]
        else {
            throw ModelFileError.tensorShape(
                file: name, tensor: names.values, expected: "[heads, value, latent] to \(keys.shape)",
                found: values.shape.description)
        }
        let (heads, latent, content, value) = (keys.shape[0], keys.shape[1], keys.shape[2], values.shape[1])
        let joined = Tensor(uninitialized: [heads, content + value, latent])
        let (keyElements, valueElements) = (try keys.float32(), try values.float32())
        joined.withMutableElements(of: Float.self) { target in
            keyElements.withElements(of: Float.self) { keys in
                valueElements.withElements(of: Float.self) { values in
                    for head in 0..<heads {
                        let start = head * (content + value) * latent
                        for row in 0..<content {
                            for column in 0..<latent {
                                target[start + row * latent + column] = keys[(head * latent + column) * content + row]
                            }
                        }
                        for index in 0..<value * latent {
                            target[start + content * latent + index] = values[head * value * latent + index]
                        }
                    }
                }
            }
        }
        return joined.reshaped([heads * (content + value), latent])
    }
}
