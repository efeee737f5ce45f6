#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What tells two builds of this program apart.
enum BuildIdentity {
    /// A hash of the program's own file, in hexadecimal; "unknown" where it cannot be read.
    static let current: String = {
        let descriptor = open("/proc/self/exe", O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return "unknown" }
        defer { close(descriptor) }
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        let words = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: 1 << 17)
        defer { words.deallocate() }
        while true {
            words.initialize(repeating: 0)
            let count = read(descriptor, words.baseAddress, words.count * 8)
            if count <= 0 { break }
            // FNV-1a over words of eight bytes.
            for index in 0..<(count + 7) / 8 { hash = (hash ^ words[index]) &* 0x100_0000_01b3 }
        }
        return String(hash, radix: 16)
    }()
}
