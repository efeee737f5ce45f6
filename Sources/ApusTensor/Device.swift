/// Where a tensor's bytes lie.
public enum Device: Sendable, Hashable, CustomStringConvertible {
    /// Main memory.
    case cpu
    /// The NVIDIA GPU with this ordinal.
    case cuda(Int)

    /// `cpu` or `cuda:0`.
    public var description: String {
        switch self {
        case .cpu: "cpu"
        case .cuda(let ordinal): "cuda:\(ordinal)"
        }
    }
}
