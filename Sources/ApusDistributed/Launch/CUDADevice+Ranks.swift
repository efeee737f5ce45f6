import ApusTensor

extension CUDADevice {
    /// The ordinal of a rank's GPU: the rank's number among those of its machine, counted from `first`; the only GPU where
    /// there is one, since launchers may show each rank its own alone (`srun --gpus-per-task=1`).
    public static func ordinal(localRank: Int, from first: Int = 0) throws(CUDAError) -> Int {
        guard first == 0, try count() == 1 else { return first + localRank }
        return 0
    }
}
