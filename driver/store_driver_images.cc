// Images: those that are volumes already, and files.
#include <sys/stat.h>

#include <cerrno>

#include "driver/images/image_export.h"
#include "driver/images/image_file.h"
#include "driver/images/image_import.h"
#include "driver/images/store_volume.h"
#include "driver/store_driver.h"
#include "driver/store_driver_impl.h"

namespace voltree {
namespace {

// The id in "cinder://HOST/ID" or "cinder://ID"; empty for other URLs.
std::string cinder_id_in(const std::string& url) {
  constexpr std::string_view kScheme = "cinder://";
  if (!url.starts_with(kScheme)) return {};
  return url.substr(std::max(url.rfind('/') + 1, kScheme.size()));
}

DriverStatus backend_failure(const Status& status) {
  return {Exception::kVolumeBackendAPIException, std::string(status.message())};
}

DriverStatus unacceptable(std::string why) {
  return {Exception::kImageUnacceptable, std::move(why)};
}

// What an import says is wrong with an image, and what is wrong elsewhere.
DriverStatus import_failure(const Status& status) {
  switch (status.code()) {
    case Code::kOk:
      return {};
    case Code::kInvalid:
    case Code::kNotSupported:
    case Code::kTooLarge:
      return unacceptable(std::string(status.message()));
    case Code::kBusy:
      return {Exception::kVolumeIsBusy, std::string(status.message())};
    default:
      return backend_failure(status);
  }
}

// A caller who has fetched an image has a file; a pipe could hold the call up for ever.
DriverStatus check_file(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return backend_failure(Status::from_errno(errno, path));
  if (S_ISREG(info.st_mode)) return {};
  return {Exception::kInvalidInput, path + " is no regular file"};
}

// Bytes that look like an image were not meant to be a disk's: whoever said "raw" was wrong, or
// wants them to be found later by somebody who looks.
DriverStatus check_raw(const std::string& path) {
  const auto file = SourceFile::open(path);
  if (!file.ok()) return backend_failure(file.status());
  const Result<FormatGuess> guess = (*file)->guess();
  if (!guess.ok()) return backend_failure(guess.status());
  if (guess->format == ImageFormat::kRaw) return {};
  return unacceptable(fmt::format("it is {}, not raw", guess->what));
}

}  // namespace

Answer<ImageClone> StoreDriver::clone_image(const DriverVolume& volume,
                                            const std::vector<std::string>& locations,
                                            const std::string& volume_name_template) {
  for (const std::string& url : locations) {
    const std::string id = cinder_id_in(url);
    const std::size_t slot = volume_name_template.find("%s");
    if (id.empty() || slot == std::string::npos) continue;
    std::string source = volume_name_template;
    source.replace(slot, 2, id);
    const Result<Json> there = client_.call("volume.info", Json{{"name", source}});
    if (!there.ok()) continue;  // in another store, or no name of ours
    VT_ASSIGN_OR_RETURN(Json update, clone(source, volume));
    return ImageClone{std::move(update), true};
  }
  return ImageClone{nullptr, false};
}

// A process that waits for a file system which it serves itself can not be killed.
DriverStatus StoreDriver::check_path(const std::string& path) {
  if (!path.starts_with('/')) {
    return {Exception::kInvalidInput,
            "the image's path must be absolute: " + voltree::quoted(path)};
  }
  const Result<Json> daemon = client_.call("ping", Json::object());
  if (!daemon.ok()) return backend_failure(daemon.status());
  const std::string mountpoint = text_in(*daemon, "mountpoint");
  const std::string folder = path.substr(0, path.rfind('/') + 1);
  struct stat tree {};
  if (mountpoint.empty() || ::stat(mountpoint.c_str(), &tree) != 0) return {};
  for (const std::string& one : {path, folder}) {
    struct stat info {};
    if (::stat(one.c_str(), &info) != 0 || info.st_dev != tree.st_dev) continue;
    return {Exception::kInvalidInput, path + " is a volume, and no image"};
  }
  return {};
}

DriverStatus StoreDriver::copy_image_to_volume(const DriverVolume& volume, const ImageFile& image) {
  const Result<ImageFormat> format = parse_format(image.disk_format);
  if (!format.ok()) return unacceptable(std::string(format.status().message()));
  VT_DRIVER_RETURN_IF_ERROR(check_path(image.path));
  VT_DRIVER_RETURN_IF_ERROR(check_file(image.path));
  if (*format == ImageFormat::kRaw) VT_DRIVER_RETURN_IF_ERROR(check_raw(image.path));
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (!there) return {Exception::kVolumeNotFound, "there is no volume " + volume.name};
  if ((*there)["attached"] == true || (*there)["connections"] != 0) {
    return {Exception::kVolumeIsBusy, volume.name + " is in use"};
  }
  if (const auto door = private_nbd(client_); !door.ok()) return backend_failure(door.status());
  if (const Status status = remove_leftovers(client_, volume.name); !status.ok()) {
    return backend_failure(status);
  }
  ImportOptions wanted;
  wanted.file = image.path;
  wanted.name = volume.name;
  wanted.format = *format;
  wanted.size_bytes = bytes_of(volume.size_gib);
  wanted.size_max_bytes = wanted.size_bytes;
  wanted.replace = true;
  wanted.erase_policy = options_.erase_policy;
  return import_failure(import_image(client_, wanted, options_.progress).status());
}

// Of a clone, which is one point in time whatever the volume's users do, and in nobody's way when a
// crash leaves it behind.
DriverStatus StoreDriver::copy_volume_to_image(const DriverVolume& volume, const ImageFile& image) {
  ExportOptions wanted;
  const Result<ImageFormat> format = parse_format(image.disk_format);
  if (!format.ok()) return {Exception::kInvalidInput, std::string(format.status().message())};
  wanted.format = *format;
  wanted.compress = image.compress && *format == ImageFormat::kQcow2;
  VT_DRIVER_RETURN_IF_ERROR(check_path(image.path));
  VT_ASSIGN_OR_RETURN(const std::optional<Json> there, find(volume.name));
  if (!there) return {Exception::kVolumeNotFound, "there is no volume " + volume.name};
  if (const Status status = remove_leftovers(client_, volume.name); !status.ok()) {
    return backend_failure(status);
  }
  Result<UnfinishedVolume> copy = UnfinishedVolume::clone(client_, volume.name);
  if (!copy.ok()) return backend_failure(copy.status());
  wanted.name = copy->name();
  wanted.file = image.path;
  wanted.force = true;
  const Status exported = export_image(client_, wanted, options_.progress).status();
  const Status discarded = copy->discard();
  if (!exported.ok()) return backend_failure(exported);
  if (!discarded.ok()) return backend_failure(discarded);
  return {};
}

}  // namespace voltree
