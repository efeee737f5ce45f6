import CApusCUDA

#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#endif

/// What the search for one of NVIDIA's libraries gave.
public struct CUDALibraryReport: Sendable, Equatable {
    /// How a search can end.
    public enum Status: String, Sendable {
        /// Opened and in use.
        case loaded
        /// No file of that name in any folder.
        case missing
        /// A file that the dynamic loader refuses.
        case broken
        /// Its version or its functions do not suffice.
        case tooOld
        /// It makes code that the driver cannot run.
        case tooNew
    }

    /// How the search ended.
    public let status: Status
    /// 1000 x major + 10 x minor, or 0 when unknown.
    public let version: Int
    /// The library, or the file that came closest; empty when none did.
    public let path: String
    /// What was expected, what was found and where; empty when loaded.
    public let message: String

    /// "13.0", or "unknown".
    public var versionText: String { version == 0 ? "unknown" : "\(version / 1000).\(version % 1000 / 10)" }

    init(_ report: apus_library_report) {
        switch report.status {
        case APUS_LIBRARY_LOADED: status = .loaded
        case APUS_LIBRARY_MISSING: status = .missing
        case APUS_LIBRARY_BROKEN: status = .broken
        case APUS_LIBRARY_TOO_OLD: status = .tooOld
        default: status = .tooNew
        }
        version = Int(report.version)
        path = String(cString: report.path)
        message = String(cString: report.message)
    }
}

/// One of NVIDIA's libraries: the report of its search and, when it was loaded, its functions.
///
/// A loaded library stays for the life of the process, and so does the table of its functions, which is never changed:
/// hence unchecked Sendable.
public struct CUDALibrary<Functions>: @unchecked Sendable {
    /// What the search gave.
    public let report: CUDALibraryReport
    private let functions: UnsafePointer<Functions>?

    init(empty: Functions, load: (UnsafeMutablePointer<Functions>, UnsafeMutablePointer<apus_library_report>) -> Void) {
        let table = UnsafeMutablePointer<Functions>.allocate(capacity: 1)
        table.initialize(to: empty)
        var result = apus_library_report()
        load(table, &result)
        report = CUDALibraryReport(result)
        apus_library_report_free(&result)
        if report.status == .loaded {
            functions = UnsafePointer(table)
        } else {
            functions = nil
            table.deallocate()
        }
    }

    /// The table of functions, or ``CUDAError/library(_:)`` with the reason why there is none.
    package func table() throws(CUDAError) -> UnsafePointer<Functions> {
        guard let functions else { throw .library(report.message) }
        return functions
    }
}

/// Where NVIDIA's libraries are looked for, and those of this process.
///
/// `APUS_CUDA_LIBRARY_PATH`, a list of folders separated by colons, replaces the usual search when it is set. Each library
/// is searched for once, when it is first needed.
public enum CUDALibraries {
    /// The CUDA driver of this process.
    public static let driver = loadDriver(folders: environmentFolders)
    /// The run-time compiler of this process, of a version that the driver can run.
    public static let nvrtc = loadNVRTC(folders: environmentFolders, driverVersion: driver.report.loadedVersion)
    /// The matrix products of this process, of a version that the driver can run.
    public static let cublasLt = loadCublasLt(folders: environmentFolders, driverVersion: driver.report.loadedVersion)
    /// NVIDIA's collectives of this process.
    public static let nccl = loadNCCL(folders: environmentFolders)

    private static var environmentFolders: String? { getenv("APUS_CUDA_LIBRARY_PATH").map { String(cString: $0) } }

    /// Searches for the driver. `folders`: separated by colons, or nil for the usual ones.
    public static func loadDriver(folders: String?) -> CUDALibrary<apus_cuda_driver> {
        CUDALibrary(empty: apus_cuda_driver()) { apus_cuda_load_driver(folders, $0, $1) }
    }

    /// Searches for NVRTC. `driverVersion`: the CUDA version of the driver it must suit, or 0 for any.
    public static func loadNVRTC(folders: String?, driverVersion: Int) -> CUDALibrary<apus_nvrtc> {
        CUDALibrary(empty: apus_nvrtc()) { apus_cuda_load_nvrtc(folders, Int32(driverVersion), $0, $1) }
    }

    /// Searches for cuBLASLt. `driverVersion`: the CUDA version of the driver it must suit, or 0 for any.
    public static func loadCublasLt(folders: String?, driverVersion: Int) -> CUDALibrary<apus_cublaslt> {
        CUDALibrary(empty: apus_cublaslt()) { apus_cuda_load_cublaslt(folders, Int32(driverVersion), $0, $1) }
    }

    /// Searches for NCCL.
    public static func loadNCCL(folders: String?) -> CUDALibrary<apus_nccl> {
        CUDALibrary(empty: apus_nccl()) { apus_cuda_load_nccl(folders, $0, $1) }
    }
}

extension CUDALibraryReport {
    fileprivate var loadedVersion: Int { status == .loaded ? version : 0 }
}
